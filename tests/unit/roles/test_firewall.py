"""What the rule says to each firewall; nftables itself is asked in the e2e test.

ufw, firewall-cmd and nft are stand-ins that write down what they were told.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra_llm.content import content_root

SCRIPT = content_root() / "roles" / "llm_access" / "files" / "firewall.py"
WISHED = {"name": "infra-llm", "port": 8080, "networks": ["10.0.0.0/8", "fd00::/64"], "front": True}
STANDIN = '#!/bin/sh\necho "{name} $@" >>"{log}"\n{more}\n'
NFT = """case "$1" in
  -f) cat >"$0.text"; cat "$0.text" >>"{log}"; case "$(cat "$0.text")" in *policy*) ;; *) rm "$0.text" ;; esac ;;
  list) cat "$0.text" 2>/dev/null ;;
esac"""  # noqa: E501
"""Holds the table that it was told last and shows it."""
UFW = """case "$LC_ALL.$LANGUAGE" in C.C|C.) says=active ;; *) says=aktiv ;; esac
case "$1" in
  status) echo "Status: $says" ;;
  show) cat "$0.rules" 2>/dev/null || true ;;
  allow|deny) echo "ufw $1 ${4:-all} comment 'infra-llm'" >>"$0.rules" ;;
  --force) : >"$0.rules" ;;
esac"""
FIREWALLD = """case "$*" in
  *--add-*) touch "$0.rules" ;; *--remove-*) rm -f "$0.rules" ;; *--query-*) test -e "$0.rules" ;;
esac"""
STOPPED = """case "$1" in --state|--add*|--remove*|--query*|--permanent) exit 252 ;; esac"""
NOT_THERE = 3
Act = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def act(tmp_path: Path) -> Act:
    """Run the script: (exit status, what the stand-ins were told and what it said itself)."""
    log = tmp_path / "log"
    tools = tmp_path / "bin"
    tools.mkdir()
    # Of the machine itself only what stand-ins are made of: its firewall is not to be seen.
    for name in ("sh", "cat", "rm", "touch", "test"):
        (tools / name).symlink_to(f"/usr/bin/{name}")

    def act(
        action: str,
        found: dict[str, str],
        environment: dict[str, str] | None = None,
        **changes: Any,
    ) -> tuple[int, list[str]]:
        log.write_text("")
        for name, more in found.items():
            tool = tools / name
            tool.write_text(
                STANDIN.format(name=name, log=log, more=more.replace("{log}", str(log)))
            )
            tool.chmod(0o755)
        path = tmp_path / "firewall.json"
        path.write_text(json.dumps({**WISHED, **changes}))
        done = subprocess.run(
            [sys.executable, "-I", str(SCRIPT), action, str(path)],
            env={"PATH": str(tools), **(environment or {})},
            capture_output=True,
            text=True,
            timeout=30,
        )
        said = done.stdout.splitlines() if action == "check" else []
        return done.returncode, [*log.read_text().splitlines(), *said, done.stderr.strip()]

    return act


def test_nftables_gets_a_table_of_our_own(act: Act) -> None:
    code, said = act("open", {"nft": NFT})
    assert code == 0
    text = "\n".join(said)
    assert text.startswith("nft -f -\ntable inet infra_llm\ndelete table inet infra_llm\n")
    assert "tcp dport 8080 ip saddr { 10.0.0.0/8 } accept" in text
    assert "tcp dport 8080 ip6 saddr { fd00::/64 } accept" in text
    assert text.index("accept") < text.index("tcp dport 8080 drop")
    code, said = act("close", {})
    assert "\n".join(said).strip().endswith("delete table inet infra_llm")


def test_a_changed_table_is_replaced_at_once(act: Act) -> None:
    act("open", {"nft": NFT})
    code, said = act("open", {}, networks=["192.168.0.0/16"])
    assert code == 0
    # Taken away and made in one transaction: else the port is open to all for a moment.
    assert said.count("nft -f -") == 1
    assert said.count("delete table inet infra_llm") == 1
    assert "    tcp dport 8080 ip saddr { 192.168.0.0/16 } accept" in said


def test_ufw_is_preferred_where_it_is_active(act: Act) -> None:
    code, said = act("open", {"nft": NFT, "ufw": UFW}, networks=["10.0.0.0/8"])
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


@pytest.mark.parametrize("names", [{"LANG": "de_DE.UTF-8"}, {"LANGUAGE": "de", "LC_ALL": "de_DE"}])
def test_ufw_is_found_whatever_the_systems_language(act: Act, names: dict[str, str]) -> None:
    """gettext looks at LANGUAGE, too, and Python's does so before LC_ALL."""
    code, said = act("open", {"nft": NFT, "ufw": UFW}, names, networks=["10.0.0.0/8"])
    assert code == 0
    assert "ufw deny proto tcp to any port 8080 comment infra-llm" in said
    assert not [line for line in said if line.startswith("nft")]


def test_firewalld_gets_rich_rules_now_and_for_later(act: Act) -> None:
    found = {"firewall-cmd": FIREWALLD, "nft": "exit 1"}
    code, said = act("open", found, networks=["10.0.0.0/8"])
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


def test_one_that_takes_the_rule_and_does_not_have_it_is_heard(act: Act) -> None:
    code, said = act("open", {"nft": "cat >/dev/null"})
    assert code == 1
    assert "nftables took the rule for port 8080 and does not show it" in said[-1]


def test_the_firewall_that_made_the_rule_takes_it_away(act: Act) -> None:
    act("open", {"nft": NFT, "ufw": UFW}, networks=["10.0.0.0/8"])
    # Not active any more, and its rules are still what it starts with.
    code, said = act("close", {"ufw": 'echo "Status: inactive"'}, networks=["10.0.0.0/8"])
    assert code == 0
    assert "ufw --force delete allow proto tcp from 10.0.0.0/8 to any port 8080" in said
    assert not [line for line in said if line.startswith("nft")]


def test_a_firewalld_that_was_stopped_forgets_the_rule_too(act: Act) -> None:
    act("open", {"firewall-cmd": FIREWALLD, "nft": NFT}, networks=["10.0.0.0/8"])
    stopped = {"firewall-cmd": STOPPED, "firewall-offline-cmd": ""}
    code, said = act("close", stopped, networks=["10.0.0.0/8"])
    assert code == 0
    (removal,) = [line for line in said if "--remove-rich-rule" in line]
    assert removal.startswith("firewall-offline-cmd ")


@pytest.mark.parametrize("tools", [{"nft": NFT}, {"ufw": UFW}, {"firewall-cmd": FIREWALLD}])
def test_a_rule_that_somebody_took_away_is_missed(
    act: Act, tmp_path: Path, tools: dict[str, str]
) -> None:
    code, said = act("check", tools)
    assert (code, said[-2]) == (NOT_THERE, "the rule for port 8080 is not set")
    act("open", {})
    assert act("check", {})[0] == 0
    (name,) = tools
    kept = next((tmp_path / "bin").glob(f"{name}.*"))
    kept.unlink()
    code, said = act("check", {})
    assert code == NOT_THERE
    assert said[-2].endswith("does not have the rule for port 8080 as it was set")
    act("open", {})
    assert act("check", {})[0] == 0


def test_another_firewall_that_took_over_is_said(act: Act) -> None:
    act("open", {"nft": NFT})
    code, said = act("check", {"ufw": UFW})
    assert code == NOT_THERE
    assert "now ufw is the one that is active" in said[-2]
    code, said = act("open", {})
    assert code == 0
    assert said.index("delete table inet infra_llm") < len(said) - 1
    assert act("check", {})[0] == 0


def test_a_host_without_a_firewall_lacks_none_behind_a_front(act: Act) -> None:
    assert act("open", {})[0] == 0
    assert act("check", {})[0] == 0
    assert act("check", {}, front=False)[0] == NOT_THERE
    code, said = act("open", {}, front=False)
    assert code == 1
    assert "install nftables" in said[-1]


def test_rules_of_a_record_that_names_no_firewall_go_by_the_active_one(
    act: Act, tmp_path: Path
) -> None:
    (tmp_path / "firewall.json.set").write_text(json.dumps(WISHED))
    code, said = act("close", {"nft": NFT})
    assert code == 0
    assert "delete table inet infra_llm" in said
    assert not (tmp_path / "firewall.json.set").exists()
