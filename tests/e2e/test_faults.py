"""Faults on real hosts: each ends in words, the right exit code, and a host that is as before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Cli, run
from tests.e2e.test_fleet import ssh_words

LAYOUT = ("/opt/infra-llm", "/etc/infra-llm", "/etc/systemd/system/infra-llm.service")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    inventory = tmp_path_factory.mktemp("faults") / "lab.ini"
    words = ("--name", "faults", "--inventory", str(inventory))
    run(sys.executable, "-m", "tests.lab", "up", *words, "--hosts", "node1")
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "faults")


@pytest.fixture
def wishing(lab: Path, tmp_path: Path) -> Callable[..., Cli]:
    """A command whose inventory wishes something more for node1."""

    def make(**wishes: Any) -> Cli:
        text = lab.read_text() + "\n[all:vars]\n"
        text += "".join(f"{name}={json.dumps(value)}\n" for name, value in wishes.items())
        path = tmp_path / "lab.ini"
        path.write_text(text)
        return Cli(path)

    return make


def on_host(lab: Path, script: str, check: bool = True) -> str:
    return run(*ssh_words(lab, "node1"), f"sudo sh -c '{script}'", check=check)


def node(report: dict[str, Any]) -> dict[str, Any]:
    return report["report"]["hosts"]["node1"]


def assert_untouched(lab: Path) -> None:
    found = on_host(lab, f"ls -d {' '.join(LAYOUT)} 2>/dev/null; ls /run/infra-llm.lock", False)
    assert found.strip() == ""


def own_model(**changes: Any) -> dict[str, Any]:
    from infra_llm.readers.catalogue_file import load_catalogue

    return {**load_catalogue()["models"]["smollm2-135m-instruct-q4_1"], **changes}


def test_a_port_that_is_taken_is_named_with_its_program(
    lab: Path, wishing: Callable[..., Cli]
) -> None:
    on_host(lab, "systemd-run --quiet --unit=holder python3 -m http.server 8088 --bind 127.0.0.1")
    time.sleep(1)
    host = node(wishing(infra_llm_port=8088)("provision", expect=2))
    assert "port 8088 is taken by python3" in host["error"]
    assert "infra_llm_port" in host["error"]
    on_host(lab, "systemctl stop holder")
    assert_untouched(lab)


def test_no_room_for_the_model_is_known_before_the_download(
    lab: Path, wishing: Callable[..., Cli], tmp_path: Path
) -> None:
    huge = own_model(size=2**50, sha256="0" * 64)
    # The header can't be read from a file that does not exist: its profile is in the cache.
    cache = tmp_path / "infra-llm" / "models"
    cache.mkdir(parents=True)
    known = Path.home() / ".cache/infra-llm/models" / f"{own_model()['sha256']}.json"
    (cache / f"{'0' * 64}.json").write_text(known.read_text())
    cli = wishing(infra_llm_model="huge", infra_llm_models={"huge": huge})
    result = cli("provision", expect=5, env={"XDG_CACHE_HOME": str(tmp_path)})
    assert "MiB are needed in /var/lib/infra-llm" in node(result)["error"]
    assert_untouched(lab)


def test_a_wrong_checksum_leaves_nothing(lab: Path, wishing: Callable[..., Cli]) -> None:
    wrong = own_model(sha256="1" * 64, places=own_model()["places"][1:])
    cli = wishing(infra_llm_model="wrong", infra_llm_models={"wrong": wrong})
    result = cli("provision", expect=None)
    assert result["code"] in (2, 5)
    assert "sha256" in node(result)["error"]
    assert_untouched(lab)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"not a model at all", 2, "no GGUF file"),
        (b"GGUF\x03\x00\x00\x00" + b"\x10" * 16, 2, "GGUF"),
        (b"", 5, "bad.gguf"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    lab: Path, wishing: Callable[..., Cli], tmp_path: Path, content: bytes, code: int, words: str
) -> None:
    import hashlib

    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    model = {
        "filename": "bad.gguf",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": max(len(content), 1),
        "places": [{"kind": "path", "path": str(path)}],
    }
    cli = wishing(infra_llm_model="bad", infra_llm_models={"bad": model})
    host = node(cli("provision", expect=code))
    assert words in host["error"]
    assert "Traceback" not in host["error"]
    assert_untouched(lab)


def test_a_model_of_another_engines_form_is_named(lab: Path, wishing: Callable[..., Cli]) -> None:
    host = node(wishing(infra_llm_engine="vllm")("provision", expect=2))
    assert "config.json and safetensors" in host["error"]
    assert "plan llama.cpp for a GGUF file" in host["error"]
    assert_untouched(lab)


@pytest.fixture
def gate() -> Iterator[str]:
    """The address of a hub that lets nobody in without a login."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/gated.gguf"
    server.shutdown()
    server.server_close()


def test_a_gated_model_says_what_it_needs(
    lab: Path, wishing: Callable[..., Cli], gate: str
) -> None:
    gated = own_model(sha256="2" * 64, places=[{"kind": "url", "url": gate}])
    host = node(
        wishing(infra_llm_model="gated", infra_llm_models={"gated": gated})("provision", expect=5)
    )
    assert "HTTP 401 Unauthorized: it asks for a login" in host["error"]
    assert "an account that accepted its licence" in host["error"]
    assert_untouched(lab)


def test_what_does_not_fit_is_said_with_exit_3(lab: Path, wishing: Callable[..., Cli]) -> None:
    host = node(wishing(infra_llm_context=16_000_000)("provision", expect=3))
    assert "does not fit" in host["error"]
    assert_untouched(lab)


def test_a_second_run_is_refused_while_one_is_running(
    lab: Path, wishing: Callable[..., Cli]
) -> None:
    lock = {
        "owner": "alice@desk",
        "run_id": "another",
        "pid": 1,
        "process_space": "",
        "taken_at": time.time() - 90,
        "renewed_at": time.time() - 90,
    }
    subprocess.run(
        [*ssh_words(lab, "node1"), "sudo tee /run/infra-llm.lock"],
        input=json.dumps(lock),
        text=True,
        check=True,
        capture_output=True,
    )
    host = node(wishing()("provision", expect=7))
    assert "alice@desk" in host["error"]
    assert "ago" in host["error"]
    on_host(lab, "rm /run/infra-llm.lock")
    assert_untouched(lab)


def interrupted(cli: Cli, command: str, *stages: str) -> Any:
    """The document of a command that gets Ctrl-C when the host comes to one of the stages."""
    words = [sys.executable, "-m", "infra_llm", command, "-i", str(cli.inventory), "--json"]
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if any(stage in line for stage in stages):
            break
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    return json.loads(out)


@pytest.mark.parametrize("stages", [["installing"], ["fetching the model", "starting the service"]])
def test_ctrl_c_leaves_no_half_done_host(
    lab: Path, wishing: Callable[..., Cli], stages: list[str]
) -> None:
    """While packages are installed the machine's lock is held, too."""
    host = interrupted(wishing(), "provision", *stages)["hosts"]["node1"]
    assert host["result"] == "interrupted"
    assert "put back as it was" in host["error"]
    assert_untouched(lab)
    assert on_host(lab, "ls /run/*infra-llm*; true") == ""


def test_ctrl_c_while_removing_gives_the_lock_back(lab: Path, wishing: Callable[..., Cli]) -> None:
    cli = wishing()
    cli("provision")
    (host,) = interrupted(cli, "remove", "removing")
    assert "run infra-llm remove again" in host["error"]
    assert on_host(lab, "ls /run/*infra-llm*.lock; true") == ""
    cli("remove")
    assert_untouched(lab)


def test_a_failed_verify_on_a_new_host_does_not_leave_a_service(
    lab: Path, wishing: Callable[..., Cli]
) -> None:
    host = node(wishing(infra_llm_verify_expect="purple elephants")("provision", expect=6))
    assert "purple elephants" in host["error"]
    assert_untouched(lab)


def test_a_failed_verify_brings_the_previous_service_back(
    lab: Path, wishing: Callable[..., Cli]
) -> None:
    wishing()("provision")
    before = on_host(lab, "cat /etc/infra-llm/launch.json")
    cli = wishing(infra_llm_verify_expect="purple elephants", infra_llm_context=1024)
    node(cli("provision", expect=6))
    assert on_host(lab, "cat /etc/infra-llm/launch.json") == before
    assert node(wishing()("provision"))["result"] == "unchanged"


def test_a_host_that_vanishes_mid_run_is_named(lab: Path, wishing: Callable[..., Cli]) -> None:
    cli = wishing(ansible_ssh_timeout=5)
    words = ["provision", "--full", "-i", cli.inventory, "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "infra_llm", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "audited" in line:
            break
    on_host(lab, "systemd-run --quiet --on-active=1 ip link set host0 down")
    out, err = process.communicate(timeout=300)
    assert process.returncode in (4, 5), err
    error = json.loads(out)["hosts"]["node1"]["error"]
    assert error
    assert "Traceback" not in error


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """One host whose user has no sudo, one without Python."""
    made = {}
    for name, flags in (("nosudo", ["--no-sudo"]), ("nopython", ["--python", "none"])):
        inventory = tmp_path_factory.mktemp(name) / "lab.ini"
        words = ["--name", name, "--inventory", str(inventory), "--hosts", "node1"]
        run(sys.executable, "-m", "tests.lab", "up", *words, *flags)
        made[name] = inventory
    yield made
    for name in made:
        run(sys.executable, "-m", "tests.lab", "down", "--name", name)


@pytest.mark.parametrize(
    ("name", "words"), [("nosudo", "sudo"), ("nopython", "install python3 on the host")]
)
def test_a_host_that_lacks_the_basics_says_which(
    bare: dict[str, Path], name: str, words: str
) -> None:
    host = node(Cli(bare[name])("provision", expect=5))
    assert words in host["error"]
    assert "Traceback" not in host["error"]


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    """The interpreter is a stand-in: this machine's Python that says that it is 3.6."""
    old = tmp_path / "python3"
    old.write_text(
        "#!/bin/sh\n"
        'exec /usr/bin/python3 -c "import sys; '
        "sys.version_info = (3, 6, 9, 'final', 0); sys.version = '3.6.9'; "
        "exec(compile(sys.stdin.read(), '<stdin>', 'exec'))\"\n"
    )
    old.chmod(0o755)
    inventory = tmp_path / "old.ini"
    inventory.write_text(f"h ansible_connection=local ansible_python_interpreter={old}\n")
    host = Cli(inventory)("provision", expect=5)["report"]["hosts"]["h"]
    assert "Current version: 3.6.9" in host["error"]
    assert "install Python 3.8 or later" in host["error"]
