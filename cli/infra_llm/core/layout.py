"""Where infra-llm keeps its things on a host. One table for roles, audit and removal. Pure."""

from __future__ import annotations

SERVICE = "infra-llm-llama-cpp"
USER = "infra-llm"

OPT = "/opt/infra-llm"
ETC = "/etc/infra-llm"
VAR = "/var/lib/infra-llm"
LOG = "/var/log/infra-llm"
RUN = "/run/infra-llm"

LAYOUT = {
    "service": SERVICE,
    "user": USER,
    "opt": OPT,
    "etc": ETC,
    "var": VAR,
    "log": LOG,
    "run": RUN,
    "engine": f"{OPT}/llama_cpp",
    "supervisor": f"{OPT}/supervisor",
    "launcher": f"{OPT}/bin/launch_llama_cpp.py",
    "launch_file": f"{ETC}/llama-cpp.json",
    "unit": f"/etc/systemd/system/{SERVICE}.service",
    "supervisor_config": f"{ETC}/supervisord.conf",
    "supervisor_socket": f"{RUN}/supervisor.sock",
    "supervisor_log": f"{LOG}/llama-cpp.log",
    "models": f"{VAR}/models",
    "state": f"{VAR}/state.json",
    "receipts": f"{VAR}/receipts",
    "lock": "/run/infra-llm.lock",
}
