"""What the rule says to each firewall; nftables itself is asked in the e2e test.

ufw, firewall-cmd and nft are stand-ins that write down what they were told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from infra_llm.content import content_root

SCRIPT = content_root() / "roles" / "llm_access" / "files" / "firewall.py"
WISHED = {"name": "infra-llm", "port": 8080, "networks": ["10.0.0.0/8", "fd00::/64"], "front": True}
STANDIN = '#!/bin/sh\necho "{name} $@" >>"{log}"\n{more}\n'
Act = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def act(tmp_path: Path) -> Act:
    log = tmp_path / "log"
    tools = tmp_path / "bin"
    tools.mkdir()

    def act(action: str, found: dict[str, str], **changes: object) -> tuple[int, list[str]]:
        log.write_text("")
        for name, more in found.items():
            tool = tools / name
            tool.write_text(STANDIN.format(name=name, log=log, more=more))
            tool.chmod(0o755)
        path = tmp_path / "firewall.json"
        path.write_text(json.dumps({**WISHED, **changes}))
        done = subprocess.run(
            [sys.executable, "-I", str(SCRIPT), action, str(path)],
            env={**os.environ, "PATH": f"{tools}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.returncode, [*log.read_text().splitlines(), done.stderr.strip()]

    return act


def test_nftables_gets_a_table_of_our_own(act: Act, tmp_path: Path) -> None:
    code, said = act("open", {"nft": f'cat >>"{tmp_path}/log"'})
    assert code == 0
    text = "\n".join(said)
    assert text.startswith("nft -f -\ntable inet infra_llm\ndelete table inet infra_llm\n")
    assert "tcp dport 8080 ip saddr { 10.0.0.0/8 } accept" in text
    assert "tcp dport 8080 ip6 saddr { fd00::/64 } accept" in text
    assert text.index("accept") < text.index("tcp dport 8080 drop")
    code, said = act("close", {"nft": f'cat >>"{tmp_path}/log"'})
    assert "\n".join(said).strip().endswith("delete table inet infra_llm")


def test_ufw_is_preferred_where_it_is_active(act: Act) -> None:
    active = 'if [ "$1" = status ]; then echo "Status: active"; fi'
    code, said = act("open", {"nft": "", "ufw": active}, networks=["10.0.0.0/8"])
    assert code == 0
    assert said[1:3] == [
        "ufw allow proto tcp from 10.0.0.0/8 to any port 8080 comment infra-llm",
        "ufw deny proto tcp to any port 8080 comment infra-llm",
    ]
    # Other networks: the rules of before go, by what was wished then.
    code, said = act("open", {}, networks=["192.168.0.0/16"])
    assert "ufw --force delete allow proto tcp from 10.0.0.0/8 to any port 8080" in said
    assert said.index("ufw --force delete deny proto tcp to any port 8080") < said.index(
        "ufw allow proto tcp from 192.168.0.0/16 to any port 8080 comment infra-llm"
    )


def test_firewalld_gets_rich_rules_now_and_for_later(act: Act) -> None:
    code, said = act("open", {"firewall-cmd": "", "nft": "exit 1"}, networks=["10.0.0.0/8"])
    assert code == 0
    rules = [line for line in said if "--add-rich-rule" in line]
    assert len(rules) == 2
    assert sum("--permanent" in rule for rule in rules) == 1
    assert all('source address="10.0.0.0/8" port port="8080"' in rule for rule in rules)
    code, said = act("close", {})
    assert sum("--remove-rich-rule" in line for line in said) == 2


def test_a_firewall_that_refuses_is_heard(act: Act) -> None:
    code, said = act("open", {"nft": "echo no permission; exit 1"})
    assert code == 1
    assert "nft -f -: no permission" in said[-1]
