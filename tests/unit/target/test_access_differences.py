"""What the audit sees of the door beyond receipts: the rule, and a change that did not end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.layout import LAYOUT
from infra_llm.target import access, audit, kept_secrets

RULE = {"name": "infra-llm", "port": 8080, "networks": ["10.0.0.0/8"], "front": True}


class Host:
    """Answers the script's question, and remembers that it was asked."""

    def __init__(self, status: int = 0, said: str = "", errors: str = "") -> None:
        self.answer = (status, said, errors)
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> tuple[int, str, str]:
        self.asked.append(list(command))
        return self.answer


@pytest.fixture
def layout(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "firewall.json").write_text(json.dumps(RULE))
    return {**LAYOUT, "etc": str(tmp_path), "launcher": "/opt/infra-llm/bin/launch.py"}


def record(layout: dict[str, str], **more: Any) -> None:
    Path(layout["etc"], "firewall.json.set").write_text(json.dumps({**RULE, **more}))


def test_a_rule_that_is_there_is_no_difference(layout: dict[str, str]) -> None:
    record(layout, manager="nftables", shown="table inet infra_llm")
    host = Host()
    assert access.access_differences(layout, host) == []
    (command,) = host.asked
    assert command[1:] == [
        "-I", "/opt/infra-llm/bin/firewall.py", "check", layout["etc"] + "/firewall.json"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (Host(3, "ufw does not have the rule\n"), "ufw does not have the rule"),
        (Host(2, "", "python3: can't open file\n"), "python3: can't open file"),
        (Host(-9, "", ""), "exit status -9"),
    ],
)
def test_one_that_is_gone_is_said(layout: dict[str, str], host: Host, words: str) -> None:
    assert access.access_differences(layout, host) == [f"firewall: {words}"]


def test_a_script_of_before_is_not_asked(layout: dict[str, str]) -> None:
    """It closes the rule at every word that is not "open"."""
    record(layout)
    host = Host()
    found = access.access_differences(layout, host)
    assert found == ["firewall: the rule was set by an earlier version"]
    assert host.asked == []


def test_where_no_rule_is_wished_nothing_is_asked(layout: dict[str, str]) -> None:
    Path(layout["etc"], "firewall.json").unlink()
    host = Host(3, "gone")
    assert access.access_differences(layout, host) == []
    assert host.asked == []


def test_secrets_that_are_still_kept_aside_are_a_difference(layout: dict[str, str]) -> None:
    Path(layout["etc"], "api-key").write_text("key")
    kept_secrets.keep(layout["etc"], layout["state"])
    assert access.access_differences(layout, Host()) == [
        "a run that may have changed the key or certificate did not end"
    ]


def test_the_audit_tells_it_to_the_role(
    layout: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "access_differences", lambda _: ["firewall: gone"])
    here = {**layout, "receipts": str(tmp_path / "receipts"), "state": str(tmp_path / "state.json")}
    found = audit.audit({"layout": here, "port": 1, "engine_port": None})
    assert found["differences"]["llm_access"] == ["firewall: gone"]
