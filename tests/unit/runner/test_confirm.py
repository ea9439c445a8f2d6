"""A plan is confirmed by the installed engine, or made anew with its figures, or stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import descriptors, samples
from tests.standins import fit_params

from infra_llm.core.errors import DoesNotFitError, ExitCode, InfraLlmError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.model import ModelProfile
from infra_llm.runner.confirm import Planner, confirm
from infra_llm.runner.host import decide_host
from infra_llm.target.engine_estimate import engine_estimate

ROOT = Path(__file__).parents[3]
CARD = samples.hardware(gpus=[samples.nvidia(vram_total_mib=8192)])
Rows = list[list[object]]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return descriptors.profile("llama-2-13b.Q4_K_M", tmp_path_factory.mktemp("model"))


@pytest.fixture
def planner(profile: ModelProfile) -> Planner:
    return samples.wishes(), lambda *_: profile, {}


@pytest.fixture
def desired(profile: ModelProfile) -> dict[str, Any]:
    audit = samples.audit(hardware=CARD.to_dict())
    found = decide_host("node", audit, samples.wishes(), {}, lambda *_: profile)
    assert found.desired["plan"]["devices"][0]["weights_mib"], "part of it is on the card"
    return found.desired


def rows(desired: dict[str, Any], more: float = 0.0) -> Rows:
    """What a tool prints that agrees with the plan, but for `more` MiB of compute on the card."""
    context = desired["plan"]["flags"]["ctx_size"]
    return [
        [
            "CUDA0" if row["name"] != "host" else "Host",
            row["model_mib"],
            row["context_mib"] * 1024 / context,
            row["compute_mib"] + (more if row["name"] != "host" else 0.0),
        ]
        for row in desired["plan"]["engine_estimate"]
    ]


def asked(release: Path, desired: dict[str, Any], *answers: Rows, fails: str = "") -> Any:
    fit_params.install(release, list(answers), fails)

    def ask(_release: str, arguments: list[str]) -> dict[str, Any]:
        return engine_estimate(str(release), arguments)

    return ask


def greedy(folder: Path, planner: Planner) -> Any:
    """A tool that says 900 MiB more on the card than the formulas, whatever the flags."""

    def ask(_release: str, arguments: list[str]) -> dict[str, Any]:
        wishes = FitWishes(engine_flags=tuple(arguments[2:-3]))
        plan = plan_launch(CARD, planner[1]({}, {}), wishes).to_dict()
        release = folder / str(len(list(folder.iterdir())))
        fit_params.install(release, [rows({"plan": plan}, more=900.0)])
        return engine_estimate(str(release), arguments)

    return ask


def calls(release: Path) -> list[list[str]]:
    found: list[list[str]] = json.loads((release / "calls.json").read_text())
    return found


def test_a_plan_that_the_engine_confirms_stands(
    tmp_path: Path, desired: dict[str, Any], planner: Planner
) -> None:
    ask = asked(tmp_path, desired, rows(desired))
    found = confirm(desired, CARD.to_dict(), ask, planner)
    assert found.confirmed
    assert found.desired is desired
    assert found.text.startswith("confirmed by llama-fit-params: ")
    assert found.text.count(" MiB against ") == 1
    assert found.devices[-1]["name"] == "Host"
    assert len(calls(tmp_path)) == 1
    assert calls(tmp_path)[0][:2] == ["--model", desired["launch"]["model"]]


def test_disagreement_beyond_the_bound_plans_anew_and_that_is_what_the_host_becomes(
    tmp_path: Path, desired: dict[str, Any], planner: Planner
) -> None:
    before = json.loads(json.dumps(desired))
    ask = greedy(tmp_path, planner)
    found = confirm(desired, CARD.to_dict(), ask, planner)
    assert (found.confirmed, found.planned_anew) == (True, True)
    assert desired == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"], "asked twice"
    assert found.text.startswith("planned anew after NVIDIA GeForce RTX 3060: ")
    plan, launch = found.desired["plan"], found.desired["launch"]
    assert plan["flags"]["n_gpu_layers"] < desired["plan"]["flags"]["n_gpu_layers"]
    assert launch["flags"] == plan["flags"]
    position = launch["arguments"].index("--n-gpu-layers")
    assert launch["arguments"][position + 1] == str(plan["flags"]["n_gpu_layers"])
    assert found.desired["inputs"] == desired["inputs"], "a second run finds nothing to do"
    card = plan["devices"][0]
    assert card["high_mib"] <= card["capacity_mib"]
    assert any(reason["text"].startswith("calibrated: ") for reason in plan["why"])


def test_an_engine_that_disagrees_twice_stops_before_the_start(
    tmp_path: Path, desired: dict[str, Any], planner: Planner
) -> None:
    first, second = rows(desired, more=400.0), rows(desired, more=9000.0)
    ask = asked(tmp_path, desired, first, second)
    with pytest.raises(DoesNotFitError, match="and with the corrected one") as failure:
        confirm(desired, CARD.to_dict(), ask, planner)
    assert failure.value.code == ExitCode.DOES_NOT_FIT
    assert len(calls(tmp_path)) == 2


def test_where_nothing_fits_any_more_it_stops(tmp_path: Path, desired: dict[str, Any]) -> None:
    wishes = samples.wishes(infra_llm_gpu_layers=desired["plan"]["flags"]["n_gpu_layers"])
    profile = descriptors.profile("llama-2-13b.Q4_K_M", tmp_path)
    ask = asked(tmp_path, desired, rows(desired, more=3000.0))
    with pytest.raises(DoesNotFitError, match=r"does not fit.*by llama-fit-params"):
        confirm(desired, CARD.to_dict(), ask, (wishes, lambda *_: profile, {}))
    assert len(calls(tmp_path)) == 1


def test_a_given_plan_is_applied_as_it_is_or_refused(
    tmp_path: Path, desired: dict[str, Any]
) -> None:
    ask = asked(tmp_path / "less", desired, rows(desired, more=-50.0))
    assert confirm(desired, CARD.to_dict(), ask, None).desired is desired
    ask = asked(tmp_path / "more", desired, rows(desired, more=400.0))
    with pytest.raises(DoesNotFitError, match="more than the given plan"):
        confirm(desired, CARD.to_dict(), ask, None)


def test_an_engine_without_the_gpu_is_found_before_the_start(
    tmp_path: Path, desired: dict[str, Any], planner: Planner
) -> None:
    ask = asked(tmp_path, desired, rows(desired)[-1:])
    with pytest.raises(InfraLlmError, match="the engine sees no GPU"):
        confirm(desired, CARD.to_dict(), ask, planner)


@pytest.mark.parametrize("fails", ["error: invalid argument: --load-mode", "Illegal instruction"])
def test_one_that_can_not_be_asked_stops_nothing(
    tmp_path: Path, desired: dict[str, Any], planner: Planner, fails: str
) -> None:
    ask = asked(tmp_path, desired, rows(desired), fails=fails)
    found = confirm(desired, CARD.to_dict(), ask, planner)
    assert (found.confirmed, found.desired) == (False, desired)
    assert found.text == f"not confirmed: llama-fit-params stopped: {fails}"


def test_a_wheel_has_no_such_program(
    tmp_path: Path, desired: dict[str, Any], planner: Planner
) -> None:
    def ask(_release: str, arguments: list[str]) -> dict[str, Any]:
        return engine_estimate(str(tmp_path), arguments)

    found = confirm(desired, CARD.to_dict(), ask, planner)
    assert found.text == "not confirmed: no llama-fit-params in this release"


def test_a_plan_of_an_earlier_version_holds_nothing_to_compare(
    tmp_path: Path, desired: dict[str, Any], planner: Planner
) -> None:
    ask = asked(tmp_path, desired, rows(desired))
    del desired["plan"]["engine_estimate"]
    found = confirm(desired, CARD.to_dict(), ask, planner)
    assert found.text == "not confirmed: the plan is of an earlier version"


PLAY = """\
- hosts: localhost
  gather_facts: false
  tasks:
    - confirm: {desired: "{{ desired }}", hardware: "{{ hardware }}"}
      register: infra_llm_confirmed
    - ansible.builtin.copy:
        content: "{{ infra_llm_confirmed.desired | default(desired) | to_json }}"
        dest: "{{ folder }}/desired.json"
"""


def play(folder: Path, variables: dict[str, Any]) -> tuple[int, str]:
    """Run the action plugin and its module with the real ansible-playbook."""
    (folder / "play.yml").write_text(PLAY)
    (folder / "vars.json").write_text(json.dumps({**variables, "folder": str(folder)}))
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "PYTHONPATH": str(ROOT / "cli"),
        "XDG_CACHE_HOME": str(folder),
    }
    command = [
        sys.executable, "-m", "ansible.cli.playbook", "-i", "localhost,", "-c", "local",
        "-e", f"ansible_python_interpreter={sys.executable}", "-e", f"@{folder}/vars.json",
        str(folder / "play.yml"),
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_under_ansible_the_play_goes_on_with_the_corrected_plan_or_stops(
    tmp_path: Path, desired: dict[str, Any], profile: ModelProfile, planner: Planner
) -> None:
    (tmp_path / "trial").mkdir()
    wanted = confirm(desired, CARD.to_dict(), greedy(tmp_path / "trial", planner), planner)
    release = tmp_path / "release"
    desired["launch"]["release"] = str(release)
    header = tmp_path / "infra-llm" / "models" / f"{desired['model']['sha256']}.json"
    header.parent.mkdir(parents=True)
    header.write_text(json.dumps(profile.to_dict()))
    results = tmp_path / "results"
    results.mkdir()
    (results / "localhost@decision.json").write_text(json.dumps({"due": ["llm_service"]}))
    variables = {
        **samples.wishes(),
        "infra_llm_run": {"results": str(results)},
        "infra_llm_audit": {"of": "an earlier task"},
        "desired": desired,
        "hardware": CARD.to_dict(),
    }
    answers = [rows(desired, more=900.0), rows(wanted.desired)]  # which has the 900 in it
    fit_params.install(release, answers)
    code, said = play(tmp_path, variables)
    assert code == 0, said
    assert "changed=1" in said, "the copy; a confirmation changes nothing"
    became = json.loads((tmp_path / "desired.json").read_text())
    assert became["plan"]["flags"] == wanted.desired["plan"]["flags"]
    decision = json.loads((results / "localhost@decision.json").read_text())
    assert decision == {"due": ["llm_service"], "desired": became}
    told = json.loads((results / "localhost@confirm.json").read_text())
    assert told["planned_anew"]
    assert told["text"].startswith("planned anew after ")

    (release / "calls.json").unlink()
    fit_params.install(release, [answers[0], rows(wanted.desired, more=5000.0)])
    code, said = play(tmp_path, variables)
    assert code != 0
    assert "disagrees with the plan, and with the corrected one" in said
    assert "exit_code: 3" in said
