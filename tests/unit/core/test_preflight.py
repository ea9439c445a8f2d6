"""What is in the way is found before anything is changed."""

from __future__ import annotations

from typing import Any

import pytest
from tests import samples

from infra_llm.core.catalogue import check_model
from infra_llm.core.decide import ROLES
from infra_llm.core.errors import ExitCode
from infra_llm.core.preflight import Problem, preflight


def found(
    due: tuple[str, ...] = ROLES, desired: dict[str, Any] | None = None, **changes: Any
) -> list[Problem]:
    return preflight(desired or samples.desired(), samples.audit(**changes), due)


def test_a_fit_host_has_no_problem() -> None:
    assert found() == []


def test_without_root_sudo_is_named() -> None:
    (problem,) = found(effective_uid=1000)
    assert "root" in problem.what
    assert "sudo" in problem.hint
    assert problem.code == ExitCode.HOST_FAILED


def test_a_taken_port_names_the_program_and_the_variable() -> None:
    (problem,) = found(port={"number": 8080, "taken_by": "nginx (pid 7)", "ours": False})
    assert problem.what == "port 8080 is taken by nginx (pid 7)"
    assert "infra_llm_port" in problem.hint
    assert problem.code == ExitCode.BAD_INPUT


def test_our_own_port_is_no_problem() -> None:
    assert found(port={"number": 8080, "taken_by": "", "ours": True}) == []


@pytest.mark.parametrize(
    ("free", "problems"),
    # model 100 MiB + 512 spare on var; 5 x 20 MiB + 512 spare on opt
    [
        ({"var": 612, "opt": 612}, []),
        ({"var": 611, "opt": 612}, ["612 MiB are needed in /var/lib/infra-llm, 611 MiB are free"]),
        ({"var": 612, "opt": 611}, ["612 MiB are needed in /opt/infra-llm, 611 MiB are free"]),
        ({"var": 0, "opt": 0}, ["/var/lib/infra-llm, 0", "/opt/infra-llm, 0"]),
    ],
)
def test_disk_space_is_checked_before_the_download(
    free: dict[str, int], problems: list[str]
) -> None:
    texts = [problem.what for problem in found(free_mib=free)]
    assert len(texts) == len(problems)
    assert all(words in text for words, text in zip(problems, texts, strict=True))


def test_a_model_inside_a_wheel_needs_room_for_both() -> None:
    wished = samples.desired()
    wished["model"]["places"].append(
        {"kind": "index", "member": "model.gguf", "size": 90 * 2**20, "filename": "m.whl"}
    )
    (problem,) = found(desired=wished, free_mib={"var": 650, "opt": 9000})
    assert "702 MiB" in problem.what


def test_what_is_there_already_needs_no_room() -> None:
    full = {"var": 0, "opt": 0}
    there = {"models_mib": {"model.gguf": 100.0}, "engine": {"sha256": samples.RELEASE_SHA256}}
    assert found(free_mib=full, **there) == []
    assert found(due=("preflight", "llm_service", "llm_verify"), free_mib=full) == []


def test_half_a_model_still_needs_room() -> None:
    (problem,) = found(free_mib={"var": 300, "opt": 9000}, models_mib={"model.gguf": 50.0})
    assert "/var/lib/infra-llm" in problem.what


def test_all_problems_come_at_once_each_with_what_to_do() -> None:
    problems = found(
        effective_uid=1000,
        port={"number": 1, "taken_by": "x", "ours": False},
        free_mib={"var": 0, "opt": 0},
    )
    assert len(problems) == 4
    for problem in problems:
        assert problem.hint
        assert problem.to_dict()["text"] == f"{problem.what}\n  {problem.hint}"


def test_of_a_model_in_several_files_only_missing_ones_need_room() -> None:
    mib = 2**20
    files = [
        {
            "filename": name,
            "sha256": digit * 64,
            "size": size,
            "places": [{"kind": "path", "path": "/srv"}],
        }
        for name, digit, size in (("config.json", "1", mib), ("model.safetensors", "2", 4000 * mib))
    ]
    wanted = samples.desired()
    wanted["model"] = check_model({"files": files}, "tiny", "test")
    folder = wanted["model"]["filename"]
    tight = samples.audit(free_mib={"opt": 100_000, "var": 4000, "etc": 100_000})
    (problem,) = preflight(wanted, tight, ["model_store"])
    assert "4513 MiB are needed in /var/lib/infra-llm" in problem.what
    tight["models_mib"] = {f"{folder}/model.safetensors": 4000.0}
    assert preflight(wanted, tight, ["model_store"]) == []


@pytest.mark.parametrize(
    ("held", "due", "problems"),
    # 100 MiB to fetch and 2 x 100 MiB for Ollama, 512 spare
    [
        (0.0, ("model_store", "ollama_model"), ["812 MiB are needed"]),
        (100.0, ("model_store", "ollama_model"), ["712 MiB are needed"]),
        (300.0, ("model_store", "ollama_model"), ["612 MiB are needed"]),
        (200.0, ("ollama_model",), []),
        (0.0, ("llm_verify",), []),
    ],
)
def test_ollama_needs_room_for_its_own_copies(
    held: float, due: tuple[str, ...], problems: list[str]
) -> None:
    desired = samples.desired()
    desired["engine"]["name"] = "ollama"
    texts = found(due, desired, free_mib={"var": 600, "opt": 9000}, engine_data_mib=held)
    assert len(texts) == len(problems)
    for words, problem in zip(problems, texts, strict=True):
        assert words in problem.what


@pytest.mark.parametrize(
    ("user", "fresh", "refused"),
    [
        ({"name": "infra-llm", "uid": 1001, "home": "/home/infra-llm"}, True, True),
        ({"name": "infra-llm", "uid": 997, "home": "/nonexistent"}, True, False),
        ({"name": "infra-llm", "uid": 1001, "home": "/home/infra-llm"}, False, False),
        (None, True, False),
    ],
)
def test_somebody_elses_user_is_not_taken_over(user: Any, fresh: bool, refused: bool) -> None:
    found = preflight(samples.desired(), samples.audit(user=user, fresh=fresh), list(ROLES))
    assert [problem.code for problem in found] == [2] * refused
    if refused:
        assert "uid 1001 and home /home/infra-llm" in found[0].what
        assert "infra_llm_instance" in found[0].hint
