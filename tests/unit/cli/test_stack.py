"""infra-llm stack: what goes in, what comes out, and how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra_llm.__main__ import main
from infra_llm.core.hardware import DriverState, Gpu, HostHardware, Memory, System
from infra_llm.runner import fleet
from infra_llm.runner.inventory import Inventory
from infra_llm.runner.progress import HostProgress, RunProgress
from infra_llm.runner.run import Outcome, Request

Ended = tuple[int, str, str]
Run = Callable[..., Ended]
RTX_3090 = ("--gpu", "RTX 3090", "--os", "debian12")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`infra-llm stack ...` as main() runs it: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["infra-llm", "stack", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        caught = capsys.readouterr()
        assert "Traceback" not in caught.err
        return int(left.value.code or 0), caught.out, caught.err

    return run


def test_a_plan_says_what_and_why(run: Run) -> None:
    code, out, error = run("--gpu", "RTX 3090x2", "--os", "debian12")
    assert (code, error) == (0, "")
    assert "580 open from vendor" in out and "sm_86" in out
    assert "[long-term-first: " in out and "2 x NVIDIA GeForce RTX 3090 (8.6)" in out


def test_the_document_has_the_promised_shape(run: Run) -> None:
    code, out, _ = run("--gpu", "Tesla P40", "--gpu", "RTX 3090", "--os", "rocky9", "--json")
    plan = json.loads(out)
    assert code == 0
    assert plan["schema"] == "infra-llm/stack-plan/1"
    assert (plan["refused"], plan["reason"], plan["ways_out"]) == (False, "", [])
    assert plan["driver"]["branch"] == "580" and plan["driver"]["modules"] == "proprietary"
    assert plan["cuda"]["version"] == "12.9" and plan["cuda"]["kind"] == "toolkit"
    assert plan["architectures"] == ["61", "86"]
    assert plan["fabric_manager"] is False and plan["reboot"]["needed"] is True
    assert all({"id", "text", "source"} <= set(rule) for rule in plan["rules"])


def test_a_refusal_is_7_with_its_ways_out(run: Run) -> None:
    pair = ("--gpu", "GTX 1080 Ti", "--gpu", "RTX 5090", "--os", "debian13")
    code, out, _ = run(*pair)
    assert code == 7 and "refused" in out and "way out" in out
    code, out, _ = run(*pair, "--json")
    plan = json.loads(out)
    assert (code, plan["refused"], plan["driver"]) == (7, True, None)
    assert plan["reason"] and plan["ways_out"]


def test_secure_boot_engines_and_pins_count(run: Run) -> None:
    card = ("--gpu", "RTX 3090", "--os", "debian12")
    assert run(*card, "--secure-boot")[0] == 7
    assert run(*card, "--secure-boot", "--set", "secure_boot=mok")[0] == 0
    assert "none" in run(*card, "--engine", "vllm")[1].splitlines()[1]
    assert "595 open" in run(*card, "--set", "infra_llm_driver_branch=595")[1]
    assert "containers" in run(*card, "--set", "container_engine=docker")[1]
    assert run("--gpu", "GTX 1080 Ti", "--os", "debian12", "--engine", "vllm")[0] == 7


def probed(tmp_path: Path, **changes: Any) -> str:
    host = HostHardware(
        system=System(distribution="debian", distribution_version="12", kernel="6.1.0-40-amd64"),
        memory=Memory(total_mib=65536),
        gpus=[Gpu(0, "nvidia", name="NVIDIA GeForce RTX 3060", compute_capability="8.6")],
        driver=DriverState(module_loaded=True, module_version="580.95.05", module_flavour="open"),
    )
    path = tmp_path / "host.json"
    path.write_text(json.dumps(host.to_dict() | changes))
    return str(path)


def test_a_probed_machine_needs_no_os(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("--hardware", probed(tmp_path))
    assert code == 0 and "kept" in out
    assert "580 open from vendor" in run("--hardware", probed(tmp_path), "--os", "rocky9")[1]
    other = probed(tmp_path, system={"distribution": "arch"})
    code, _, error = run("--hardware", other)
    assert code == 2 and "arch" in error and "debian12" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no machine given"),
        (("--os", "debian12"), "no machine given"),
        (("--gpu", "RTX 3090"), "--os"),
        (("--gpu", "RTX 3090", "--hardware", "x"), "exclude"),
        (("--gpu", "RTX 3090", "--os", "debian11"), "debian11"),
        (("--gpu", "RTX 9999", "--os", "debian12"), "RTX 9999"),
        (("--gpu", "RTX 3090x0", "--os", "debian12"), "N is 1 to 64"),
        (("--gpu", "", "--os", "debian12"), "--gpu"),
        (("--gpu", "RTX 3090", "--os", "debian12", "--engine", "tgi"), "tgi"),
        (("--gpu", "RTX 3090", "--os", "debian12", "--machine", "sparc"), "--machine"),
        (("--gpu", "RTX 3090", "--os", "debian12", "--set", "x"), "NAME=VALUE"),
        (("--gpu", "RTX 3090", "--os", "debian12", "--set", "=1"), "NAME=VALUE"),
        (("--gpu", "RTX 3090", "--os", "debian12", "--set", "colour=red"), "colour"),
        (("--gpu", "RTX 3090", "--os", "debian12", "--set", "mig=["), "mig"),
        (("--gpu", "RTX 3090", "--os", "debian12", "--set", "mig=5"), "infra_llm_mig"),
        (("--gpu", "RTX 3090", "--os", "debian12", "--set", "driver_branch="), "driver_branch"),
        (("--gpu", "RTX 3090", "--os", "debian12", "--set", "driver_branch=5"), "driver_branch"),
        (("--gpu", "RTX 3090", "--os", "debian12", "--set", "cuda_version=x"), "cuda_version"),
        ((*RTX_3090, "--set", "driver_branch=2001-13-45"), "--set driver_branch: not a value"),
        ((*RTX_3090, "--set", f"context={'9' * 4400}"), "--set context: not a value"),
        ((*RTX_3090, "--set", f"context=0x{'f' * 4400}"), "a number of thousands of digits"),
        ((*RTX_3090, "--set", f"mig={'[' * 5000}"), "--set mig: not a value"),
        ((*RTX_3090, "--set", f"minimum_speed={'9' * 400}"), "infra_llm_minimum_speed"),
        ((*RTX_3090, "--set", "repositories={nvidia_cuda: {}}"), "did you mean nvidia-cuda?"),
        ((*RTX_3090, "--set", "mig={all: [99g.1gb]}"), "infra_llm_mig"),
        (("--gpu", "RTX 3090", "--os", "debian12", "--set", "repositories={epel: 1}"), "may give"),
        (("--hardware", "nowhere.json"), "nowhere.json"),
    ],
)
def test_bad_input_is_2_and_named(run: Run, arguments: tuple[str, ...], words: str) -> None:
    code, out, error = run(*arguments)
    assert (code, out) == (2, "")
    assert words in error


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "7", '{"gpus": 3}', '{"schema": "x"}'])
def test_a_broken_document_is_2(run: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "host.json"
    path.write_text(text)
    code, out, error = run("--hardware", str(path), "--os", "debian12")
    assert (code, out) == (2, "") and "host.json" in error


@pytest.mark.parametrize("capability", ["", "x", "8", "99.9", "8.6.1"])
def test_an_odd_capability_is_refused(run: Run, tmp_path: Path, capability: str) -> None:
    card = {"index": 0, "vendor": "nvidia", "name": "odd", "compute_capability": capability}
    code, out, _ = run("--hardware", probed(tmp_path, gpus=[card]))
    assert code == 7 and "odd" in out


def test_the_hosts_of_an_inventory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a stand-in for Ansible: the request it gets, and a refused host among good ones."""
    requests: list[Request] = []
    good = {"os": "debian12", "refused": False, "rules": []}
    bad = {"os": "debian12", "refused": True, "reason": "no", "ways_out": ["a"], "rules": []}
    documents = {"a": {"stack": good}, "b": {"stack": bad}, "c": {}}

    def play(request: Request, listener: Any = None) -> Outcome:
        requests.append(request)
        progress = {name: HostProgress(task="x") for name in documents}
        if "c" in progress:
            progress["c"].unreachable = "no route"
        return Outcome(RunProgress(progress, True), documents, 0)

    monkeypatch.setattr(fleet, "run_playbook", play)
    monkeypatch.setattr(
        fleet, "load_inventory", lambda path, limit: Inventory(path, list(documents))
    )
    code, out, _ = run("-i", "lab.ini", "--json", "--engine", "vllm", "--set", "driver_branch=580")
    assert code == 7, "a refusal comes before a host that can't be reached"
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert entries["b"]["refused"] and entries["c"]["error"] == "no route"
    assert [entries[name]["exit_code"] for name in documents] == [0, 7, 4]
    assert requests[0].options["stack_engines"] == ["vllm"]
    assert requests[0].options["stack_pins"] == {"infra_llm_driver_branch": 580}
    del documents["b"]
    assert run("-i", "lab.ini")[0] == 4
    del documents["c"]
    assert run("-i", "lab.ini")[0] == 0
    assert run("-i", "lab.ini", "--set", "driver_branch=x")[0] == 2
