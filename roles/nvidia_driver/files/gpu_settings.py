#!/usr/bin/env python3
"""Brings NVIDIA cards to a wished MIG layout, power limit and ECC mode; run again, it does nothing.

    gpu_settings.py WISHES.json [--check]

WISHES.json: {"mig": {"0000:17:00.0": ["1g.10gb", "2g.20gb"]}, "power_limit_w": 250, "ecc": true};
null leaves a setting. Prints {"done": [...], "reboot": [...]}. Runs at every boot, too:
cards forget their power limit and MIG instances. Standard library, Python 3.8; talks to
nvidia-smi only (options: NVIDIA MIG User Guide, nvidia-smi(1)).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

QUERY = (
    "pci.bus_id,mig.mode.current,mig.mode.pending,ecc.mode.current,ecc.mode.pending,"
    "power.limit,power.min_limit,power.max_limit"
)
INSTANCE = re.compile(r"^\|\s+\d+\s+MIG (\S+)\s+\d+\s+\d+\s+\S+\s+\|", re.M)


class SettingsError(Exception):
    """Words for a person."""


def smi(*words):
    """nvidia-smi's output. Raises SettingsError with its own words."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError("nvidia-smi: {}".format(error)) from error
    if done.returncode:
        raise SettingsError("nvidia-smi {}: {}".format(" ".join(words), done.stdout.strip()))
    return done.stdout


def address(text):
    """PCI address with a domain of four digits, lower case: nvidia-smi prints eight."""
    domain, _, rest = text.strip().lower().partition(":")
    return "{}:{}".format(domain[-4:].zfill(4), rest)


def cards():
    """Address -> what nvidia-smi says, None for what a card does not know."""
    names = ("address", "mig", "mig_pending", "ecc", "ecc_pending", "power", "lowest", "highest")
    found = {}
    for line in smi("--query-gpu=" + QUERY, "--format=csv,noheader,nounits").splitlines():
        values = [None if "N/A" in v or "Not Supp" in v else v.strip() for v in line.split(",")]
        if len(values) == len(names):
            card = dict(zip(names, values))
            found[address(card["address"])] = card
    return found


class Cards:
    """The wishes at work; what is done or would be is noted in words."""

    def __init__(self, wishes, check):
        self.wishes = wishes
        self.check = check
        self.done = []
        self.reboot = []

    def apply(self):
        there = cards()
        for name in self.wishes.get("mig") or {}:
            if address(name) not in there:
                raise SettingsError(
                    "no card at {}; there are: {}".format(name, ", ".join(sorted(there)) or "none")
                )
        for place, card in sorted(there.items()):
            self.ecc(place, card)
            self.power(place, card)
        for name, profiles in sorted((self.wishes.get("mig") or {}).items()):
            self.mig(address(name), there[address(name)], profiles)

    def change(self, words, *command):
        self.done.append(words)
        if not self.check:
            smi(*command)

    def ecc(self, place, card):
        wish = self.wishes.get("ecc")
        if wish is None or card["ecc"] is None:
            return
        wanted = "Enabled" if wish else "Disabled"
        if card["ecc_pending"] != wanted:
            self.change("{}: ECC {}".format(place, wanted), "-i", place, "-e", str(int(wish)))
        if card["ecc"] != wanted:
            self.reboot.append("{}: ECC changes at the next boot".format(place))

    def power(self, place, card):
        wish = self.wishes.get("power_limit_w")
        if wish is None or card["power"] is None:
            return
        low, high = float(card["lowest"] or wish), float(card["highest"] or wish)
        if not low <= wish <= high:
            raise SettingsError(
                "{}: a power limit of {} W is outside of {:g} to {:g} W".format(
                    place, wish, low, high
                )
            )
        if abs(float(card["power"]) - wish) >= 0.5:
            self.change("{}: power limit {} W".format(place, wish), "-i", place, "-pl", str(wish))

    def mig(self, place, card, profiles):
        if card["mig"] is None:
            raise SettingsError("{}: this card can't be divided (MIG)".format(place))
        wanted = "Enabled" if profiles else "Disabled"
        if card["mig_pending"] != wanted:
            words = "{}: MIG {}".format(place, wanted)
            self.change(words, "-i", place, "-mig", str(int(bool(profiles))))
            if not self.check:
                card = cards()[place]
        if card["mig"] != wanted:
            if not self.check:
                self.reboot.append("{}: the MIG mode changes when the card is reset".format(place))
                return
            there = []
        else:
            there = self.instances(place) if profiles else []
        if sorted(there) != sorted(profiles):
            self.divide(place, there, profiles)

    def instances(self, place):
        """Profiles of the GPU instances that a card has."""
        try:
            return INSTANCE.findall(smi("mig", "-i", place, "-lgi"))
        except SettingsError as error:
            if "No GPU instances found" in str(error):
                return []
            raise

    def divide(self, place, there, profiles):
        if there:
            self.change("{}: no instances".format(place), "mig", "-i", place, "-dci")
            if not self.check:
                smi("mig", "-i", place, "-dgi")
        words = "{}: instances {}".format(place, ", ".join(profiles))
        self.change(words, "mig", "-i", place, "-cgi", ",".join(profiles), "-C")


def main(words):
    check = "--check" in words
    with open(next(w for w in words if not w.startswith("--")), encoding="utf-8") as stream:
        wishes = json.load(stream)
    work = Cards(wishes, check)
    try:
        work.apply()
    except SettingsError as error:
        sys.stderr.write("{}\n".format(error))
        return 1
    result = {"done": work.done, "reboot": work.reboot}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
