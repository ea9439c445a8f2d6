"""Where infra-llm keeps its things on a host. One table for roles, audit and removal. Pure."""

from __future__ import annotations

from infra_llm.core.podman import run_folder

NAME = "infra-llm"
HOST = f"/var/lib/{NAME}_host"
"""What all instances of a host share: the NVIDIA stack. No instance can be named so."""


def layout_of(instance: str = "", engine_folder: str = "llama_cpp") -> dict[str, str]:
    """Paths and names of one instance; `engine_folder` is the engine role's name.

    The service, its endpoint and its launch file are the same whatever engine serves, so that
    another engine is a change of the launch file, and back is the same change again. Instances
    share nothing, so that one can be removed while another serves.
    """
    name = f"{NAME}-{instance}" if instance else NAME
    opt, etc, var = f"/opt/{name}", f"/etc/{name}", f"/var/lib/{name}"
    log, run = f"/var/log/{name}", f"/run/{name}"
    return {
        "service": name,
        "user": name,
        "opt": opt,
        "etc": etc,
        "var": var,
        "log": log,
        "run": run,
        "engine": f"{opt}/{engine_folder}",
        "engine_data": f"{var}/{engine_folder}",
        "supervisor": f"{opt}/supervisor",
        "front": f"{name}-front",
        "firewall": f"{name}-firewall",
        "launcher": f"{opt}/bin/launch.py",
        "launch_file": f"{etc}/launch.json",
        "unit": f"/etc/systemd/system/{name}.service",
        "supervisor_config": f"{etc}/supervisord.conf",
        "supervisor_socket": f"{run}/supervisor.sock",
        "supervisor_log": f"{log}/engine.log",
        "models": f"{var}/models",
        # podman's own place: sites give it the disk that images need.
        "containers": f"/var/lib/containers/{name}",
        "container_run": run_folder(name),
        "state": f"{var}/state.json",
        "receipts": f"{var}/receipts",
        "lock": f"/run/{name}.lock",
        "stack_state": f"{HOST}/stack.json",
        "stack_receipts": f"{HOST}/receipts",
        "stack_settings": f"/etc/{NAME}_host",
        "stack_toolkits": f"/opt/{NAME}_host/cuda",
        "stack_lock": f"/run/{NAME}_host.lock",
    }


LAYOUT = layout_of()
