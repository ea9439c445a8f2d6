"""Asking the installed engine: its answer, or why there is none; never an exception."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.standins import fit_params

from infra_llm.target.engine_estimate import engine_estimate, parse

ARGUMENTS = ["--model", "/model.gguf", "--ctx-size", "2048"]
REAL_ERROR = """\
0.00.004.918 E gguf_init_from_file: failed to open GGUF file '/no.gguf' (No such file or directory)
0.00.005.010 E llama_model_load_from_file_impl: failed to load model
terminate called after throwing an instance of 'std::runtime_error'
  what():  failed to load model"""
"""What the real program said of a file that is not there (build 11434)."""


def test_its_rows_are_read_by_name_and_part() -> None:
    assert parse("CUDA0 92 180 97 \nHost 28 0 10 \n") == [
        {"name": "CUDA0", "model_mib": 92, "context_mib": 180, "compute_mib": 97},
        {"name": "Host", "model_mib": 28, "context_mib": 0, "compute_mib": 10},
    ]


@pytest.mark.parametrize("text", ["", "-c 4096 -ngl 33\n", "CUDA0 1 2 3 \n", "Host 1 2\n"])
def test_other_lines_are_no_answer(text: str) -> None:
    assert parse(text) == []


def test_the_releases_program_is_asked_with_the_servers_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "99999")
    release = fit_params.install(tmp_path / "releases" / "one", [[["Host", 28, 22, 98]]])
    (tmp_path / "current").symlink_to(release)
    found = engine_estimate(str(tmp_path / "current"), ARGUMENTS)
    assert found["why"] == ""
    assert found["devices"] == parse("Host 28 44 98 \n")
    assert json.loads((release / "calls.json").read_text()) == [ARGUMENTS]


def test_an_archive_may_have_it_under_bin(tmp_path: Path) -> None:
    fit_params.install(tmp_path / "bin", [[["Host", 1, 1, 1]]])
    assert engine_estimate(str(tmp_path), ARGUMENTS)["devices"]


def test_a_release_without_it_says_so(tmp_path: Path) -> None:
    found = engine_estimate(str(tmp_path), ARGUMENTS)
    assert found == {"devices": [], "seconds": 0.0, "why": "no llama-fit-params in this release"}


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (REAL_ERROR, "failed to open GGUF file '/no.gguf'"),
        ("error: invalid argument: --mmap", "stopped: error: invalid argument: --mmap"),
        ("who knows", "stopped: who knows"),
    ],
)
def test_what_it_stops_with_is_told(tmp_path: Path, said: str, word: str) -> None:
    fit_params.install(tmp_path, [[["Host", 1, 1, 1]]], fails=said)
    found = engine_estimate(str(tmp_path), ARGUMENTS)
    assert found["devices"] == []
    assert word in found["why"]


def test_one_that_hangs_is_given_up(tmp_path: Path) -> None:
    tool = tmp_path / "llama-fit-params"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    assert "gave no answer" in engine_estimate(str(tmp_path), ARGUMENTS, 0.3)["why"]


def test_one_of_another_machine_is_told(tmp_path: Path) -> None:
    tool = tmp_path / "llama-fit-params"
    tool.write_bytes(b"\x7fELF" + bytes(60))
    tool.chmod(0o755)
    assert "can't run" in engine_estimate(str(tmp_path), ARGUMENTS)["why"]
