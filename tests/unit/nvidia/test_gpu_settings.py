"""MIG layout, power limit and ECC against a stand-in of nvidia-smi that keeps what it is told."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra_llm.content import content_root

SCRIPT = content_root() / "roles" / "nvidia_driver" / "files" / "gpu_settings.py"
A, B = "0000:17:00.0", "0000:65:00.0"

# Options and output as the MIG User Guide and nvidia-smi(1) show them.
SMI = """#!/usr/bin/env python3
import json, sys
path = "{state}"
cards = json.load(open(path))
words = sys.argv[1:]
open(path + ".log", "a").write(" ".join(words) + "\\n")
if words[0].startswith("--query-gpu"):
    for bus, c in cards.items():
        print(", ".join(["0000" + bus.upper(), c["mig"], c["mig_pending"], c["ecc"],
                         c["ecc_pending"], c["power"], "100.00", "400.00"]))
    sys.exit()
card = cards[words[words.index("-i") + 1]]
if words[0] == "mig":
    if "-lgi" in words:
        if not card["instances"]:
            print("No GPU instances found: Not Found"); sys.exit(6)
        print("| GPU   Name             Profile  Instance   Placement  |")
        for n, name in enumerate(card["instances"]):
            print("|   0  MIG %-12s   %d        %d          0:1     |" % (name, 19, n))
    elif "-dgi" in words:
        card["instances"] = []
    elif "-cgi" in words:
        card["instances"] = words[words.index("-cgi") + 1].split(",")
elif "-mig" in words:
    mode = ["Disabled", "Enabled"][int(words[words.index("-mig") + 1])]
    card["mig_pending"] = mode
    if not card.get("busy"):
        card["mig"] = mode
elif "-pl" in words:
    card["power"] = words[-1] + ".00"
elif "-e" in words:
    card["ecc_pending"] = ["Disabled", "Enabled"][int(words[-1])]
json.dump(cards, open(path, "w"))
"""


def card(**more: Any) -> dict[str, Any]:
    plain = {"mig": "Disabled", "mig_pending": "Disabled", "ecc": "Enabled",
             "ecc_pending": "Enabled", "power": "400.00", "instances": []}  # fmt: skip
    return {**plain, **more}


class Machine:
    """Cards behind the stand-in, and the script over them."""

    def __init__(self, folder: Path, **cards: dict[str, Any]) -> None:
        self.folder = folder
        self.state = folder / "cards.json"
        self.state.write_text(json.dumps({A: cards.get("a", card()), B: cards.get("b", card())}))
        tool = folder / "nvidia-smi"
        tool.write_text(SMI.format(state=self.state))
        tool.chmod(0o755)

    def __call__(self, *words: str, **wishes: Any) -> dict[str, Any]:
        path = self.folder / "wishes.json"
        path.write_text(json.dumps(wishes))
        environment = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        done = subprocess.run([sys.executable, str(SCRIPT), str(path), *words], env=environment,
                              capture_output=True, text=True)  # fmt: skip
        said = json.loads(done.stdout) if done.returncode == 0 else {}
        return {**said, "code": done.returncode, "stderr": done.stderr}

    @property
    def cards(self) -> Any:
        return json.loads(self.state.read_text())


def settled(machine: Machine, **wishes: Any) -> dict[str, Any]:
    """Apply, and once more: the second time there is nothing to do."""
    first = machine(**wishes)
    assert first["code"] == 0, first["stderr"]
    assert machine(**wishes)["done"] == []
    return first


def test_a_layout_is_made_once_on_the_card_that_is_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    settled(machine, mig={A: ["3g.40gb", "1g.10gb"]})
    assert machine.cards[A]["instances"] == ["3g.40gb", "1g.10gb"]
    assert machine.cards[B] == card()


def test_the_order_of_profiles_does_not_matter(tmp_path: Path) -> None:
    there = card(mig="Enabled", mig_pending="Enabled", instances=["1g.10gb", "3g.40gb"])
    assert Machine(tmp_path, a=there)(mig={A: ["3g.40gb", "1g.10gb"]})["done"] == []


def test_another_layout_replaces_the_one_that_is_there(tmp_path: Path) -> None:
    there = card(mig="Enabled", mig_pending="Enabled", instances=["7g.80gb"])
    machine = Machine(tmp_path, a=there)
    settled(machine, mig={A: ["1g.10gb"] * 7})
    assert machine.cards[A]["instances"] == ["1g.10gb"] * 7


def test_no_profiles_make_the_card_whole_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path, a=card(mig="Enabled", mig_pending="Enabled", instances=["1g.10gb"]))
    settled(machine, mig={A: []})
    assert machine.cards[A]["mig"] == "Disabled"


def test_a_card_in_use_changes_its_mode_later(tmp_path: Path) -> None:
    machine = Machine(tmp_path, a=card(busy=True))
    done = machine(mig={A: ["1g.10gb"]})
    assert done["reboot"] == [f"{A}: the MIG mode changes when the card is reset"]
    assert machine.cards[A]["instances"] == []


def test_power_and_ecc_are_wishes_for_every_card(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    done = settled(machine, power_limit_w=250, ecc=False)
    assert {c["power"] for c in machine.cards.values()} == {"250.00"}
    assert done["reboot"] == [f"{x}: ECC changes at the next boot" for x in (A, B)]


def test_a_limit_that_the_card_can_not_have_is_refused(tmp_path: Path) -> None:
    done = Machine(tmp_path)(power_limit_w=900)
    assert done["code"] == 1
    assert "a power limit of 900 W is outside of 100 to 400 W" in done["stderr"]


def test_a_card_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    done = Machine(tmp_path)(mig={"0000:ff:00.0": ["1g.10gb"]})
    assert done["code"] == 1
    assert A in done["stderr"]
    assert B in done["stderr"]


def test_a_card_without_mig_or_ecc_says_so_or_is_left(tmp_path: Path) -> None:
    none = card(mig="[N/A]", mig_pending="[N/A]", ecc="[N/A]", ecc_pending="[N/A]")
    machine = Machine(tmp_path, a=none, b=none)
    assert machine(ecc=True)["done"] == []
    assert "can't be divided" in machine(mig={A: ["1g.10gb"]})["stderr"]


def test_check_only_looks(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    before = machine.state.read_text()
    done = machine("--check", mig={A: ["1g.10gb"]}, power_limit_w=250)
    assert len(done["done"]) == 4
    assert machine.state.read_text() == before


def test_without_wishes_nothing_is_done(tmp_path: Path) -> None:
    assert Machine(tmp_path)(mig={}, power_limit_w=None, ecc=None)["done"] == []


def test_it_reads_under_python_3_8() -> None:
    spec = importlib.util.spec_from_file_location("gpu_settings", SCRIPT)
    assert spec
    compile(SCRIPT.read_text(), str(SCRIPT), "exec", dont_inherit=True)
    assert "match " not in [line.strip()[:6] for line in SCRIPT.read_text().splitlines()]


@pytest.mark.parametrize("name", ["00000000:17:00.0", "0000:17:00.0", "17:00.0"])
def test_addresses_are_compared_in_one_form(name: str) -> None:
    spec = importlib.util.spec_from_file_location("gpu_settings", SCRIPT)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.address(name).endswith("17:00.0")
