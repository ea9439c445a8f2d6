"""The generated references are those of the code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from infra_llm.cli import cli
from infra_llm.core.variables import VARIABLES

ROOT = Path(__file__).parents[3]


def test_the_generated_references_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tools/reference.py", "--check"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "cli"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_option_and_variable_is_in_them() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for name, command in cli.commands.items():
        assert f"## infra-llm {name}" in text
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in text
    table = (ROOT / "docs" / "variables.md").read_text()
    for variable in VARIABLES:
        assert f"| `{variable.name}` |" in table
