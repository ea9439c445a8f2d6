"""A model quantized on a host, with a stand-in for llama-quantize that fails as the real one may.

The real program runs in tests/e2e/test_source.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target.gguf_types import tensor_types
from infra_llm.target.quantize import quantize

PROGRAM = """#!/bin/sh
[ "$1" = --help ] && {{ echo "{help}"; exit 1; }}
echo "$@" >>{folder}/calls
while [ $# -gt 4 ]; do shift 2; done
{action}
"""
COPY = 'cp "$1" "$2"'


def write_model(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["a", "b"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_tensor("token_embd.weight", np.ones((4, 32), dtype=np.float16))
    writer.add_tensor("output_norm.weight", np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Host:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dest = folder / "model.Q8_0.gguf"
        self.release = folder / "release"
        self.release.mkdir()
        write_model(folder / "model.gguf")

    def program(self, action: str, help_text: str = "--max-buffer-size") -> None:
        path = self.release / "llama-quantize"
        path.write_text(PROGRAM.format(folder=self.folder, action=action, help=help_text))
        path.chmod(0o755)

    def run(self, check_mode: bool = False, **more: Any) -> dict[str, Any]:
        given = {
            "source": str(self.folder / "model.gguf"),
            "source_sha256": "1" * 64,
            "dest": str(self.dest),
            "type": "Q8_0",
            "release": str(self.release),
            "threads": 2,
        }
        return quantize({**given, **more}, check_mode)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def left(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"calls", "release", "model.gguf"}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_it_is_made_once_and_recorded(host: Host) -> None:
    host.program(COPY)
    done = host.run()
    assert done["changed"]
    assert done["types"] == {"token_embd.weight": "F16", "output_norm.weight": "F32"}
    assert host.dest.stat().st_mode & 0o777 == 0o644
    again = host.run()
    assert not again["changed"]
    assert (again["sha256"], again["types"]) == (done["sha256"], done["types"])
    assert len(host.calls) == 1
    assert host.calls[0].startswith("--max-buffer-size 1024 ")
    assert host.left() == {"model.Q8_0.gguf", "model.Q8_0.gguf.json"}


def test_a_release_without_the_option_is_not_told_it(host: Host) -> None:
    host.program(COPY, help_text="usage")
    host.run()
    assert "--max-buffer-size" not in host.calls[0]


def test_another_source_or_type_is_made_anew_and_so_is_a_damaged_result(host: Host) -> None:
    host.program(COPY)
    host.run()
    assert host.run(source_sha256="2" * 64)["changed"]
    assert host.run(type="Q4_0", source_sha256="2" * 64)["changed"]
    data = bytearray(host.dest.read_bytes())
    data[-1] ^= 1
    host.dest.write_bytes(data)
    assert host.run(type="Q4_0", source_sha256="2" * 64)["changed"]


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ('head -c 100 "$1" >"$2"; echo "No space left on device"; exit 1', "No space left"),
        # It ends well, but its header, which it writes last, is not there.
        ('head -c 4096 /dev/zero >"$2"', "not a whole GGUF file"),
        ('head -c 60 "$1" >"$2"', "not a whole GGUF file"),
        (": >/dev/null", "No such file"),
    ],
)
def test_a_failure_leaves_nothing_and_keeps_the_result_before(
    host: Host, action: str, words: str
) -> None:
    host.program(COPY)
    before = host.run()
    host.program(action)
    with pytest.raises(HostFailedError, match=words):
        host.run(source_sha256="2" * 64)
    assert host.left() == {"model.Q8_0.gguf", "model.Q8_0.gguf.json"}
    host.program("exit 1")
    assert host.run()["sha256"] == before["sha256"]


def test_a_partial_file_of_a_killed_run_is_replaced(host: Host) -> None:
    (host.folder / "model.Q8_0.gguf.part").write_bytes(b"half")
    host.program('[ -e "$2" ] && exit 9; cp "$1" "$2"')
    assert host.run()["changed"]
    assert "model.Q8_0.gguf.part" not in host.left()


def test_a_release_without_the_program_says_which_has_it(host: Host) -> None:
    with pytest.raises(HostFailedError, match="has no llama-quantize") as caught:
        host.run()
    assert "llama_cpp_install_method: release or source" in caught.value.hint


def test_check_mode_says_it_and_does_nothing(host: Host) -> None:
    host.program(COPY)
    told = host.run(check_mode=True)
    assert told["changed"] and told["msg"] == "would quantize to Q8_0"
    assert (host.calls, host.left()) == ([], set())


def test_a_record_that_is_no_record_counts_as_none(host: Host) -> None:
    host.program(COPY)
    host.run()
    (host.folder / "model.Q8_0.gguf.json").write_text(json.dumps(["no"]))
    assert host.run()["changed"]


def test_types_of_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(HostFailedError, match="does not begin like one"):
        tensor_types(str(path))
