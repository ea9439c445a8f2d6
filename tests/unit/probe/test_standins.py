"""The stand-ins themselves: what is put into a guest, swapped, and taken away again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.standins import machine as standin
from tests.standins.install import install, main, remove


def tree(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_symlink() or p.is_file()}


def test_a_set_is_installed_swapped_and_removed(tmp_path: Path) -> None:
    install("h100x8", tmp_path)
    first = tree(tmp_path)
    assert "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.570.124.06" in first
    install("rtx3060", tmp_path)
    swapped = tree(tmp_path)
    assert "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.570.124.06" not in swapped
    assert "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05" in swapped
    assert (tmp_path / "etc/infra-llm-standin/machine").read_text() == "rtx3060\n"
    remove(tmp_path)
    assert tree(tmp_path) == set()


def test_only_two_trees_are_kept(tmp_path: Path) -> None:
    for name in ("rtx3060", "rtx4090", "l40s", "nouveau"):
        install(name, tmp_path)
    kept = sorted((tmp_path / "etc/infra-llm-standin/trees").iterdir())
    assert [path.name.partition("-")[2] for path in kept] == ["l40s", "nouveau"]


def test_a_bare_machine_brings_no_driver(tmp_path: Path) -> None:
    install("nouveau", tmp_path)
    assert not [name for name in tree(tmp_path) if "libnvidia" in name or "nvidia-smi" in name]


def test_an_unknown_machine_names_those_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--machine", "nope", "--root", str(tmp_path)]) == 2
    assert "rtx3060" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments", "code", "words"),
    [
        ("rtx3060", ["-L"], 0, "GPU 0: NVIDIA GeForce RTX 3060 (UUID: GPU-"),
        ("a100-mig", ["-L"], 0, "  MIG 1g.10gb     Device  0: (UUID: MIG-"),
        (
            "gb10",
            ["--query-gpu=name,memory.total", "--format=csv,noheader"],
            0,
            "NVIDIA GB10, [N/A]",
        ),
        ("unattended-upgrade", [], 18, "NVML library version: 580.178\n"),
        ("driver-not-loaded", [], 9, "couldn't communicate with the NVIDIA driver"),
        ("nvml-no-permission", [], 4, "Insufficient Permissions"),
        ("mi300x8", [], 6, "No devices were found"),
    ],
)
def test_nvidia_smi_answers_as_the_real_one(
    name: str,
    arguments: list[str],
    code: int,
    words: str,
    standins: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    topology = tmp_path / "gpus.topology"
    topology.write_text(standin.topology(standin.load(name)))
    done = subprocess.run(
        [str(standins[1]), *arguments],
        env={"INFRA_LLM_STANDIN_GPUS": str(topology)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, words in done.stdout) == (code, True), done.stdout
