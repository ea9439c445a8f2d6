"""Fingerprints as gpg itself gives them; whatever else is refused in words."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.standins.apt_repository import Key, create_key

from infra_llm.core.errors import RefusedError
from infra_llm.target.packages.openpgp import dearmour, fingerprints, pinned_key


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[Key]:
    home = tmp_path_factory.mktemp("k")
    return [create_key(home, "one"), create_key(home, "two")]


def test_the_fingerprint_is_the_one_that_gpg_gives(keys: list[Key]) -> None:
    for key in keys:
        assert fingerprints(key.export(armour=False)) == [key.fingerprint]
        assert fingerprints(dearmour(key.export())) == [key.fingerprint]


def test_the_pinned_key_is_given_in_binary_form(keys: list[Key]) -> None:
    spaced = " ".join(keys[0].fingerprint.lower()[i : i + 4] for i in range(0, 40, 4))
    assert pinned_key(keys[0].export(), spaced, "url") == keys[0].export(armour=False)


def test_another_key_is_refused_with_both_names(keys: list[Key]) -> None:
    with pytest.raises(RefusedError) as error:
        pinned_key(keys[1].export(), keys[0].fingerprint, "https://x.example/key")
    assert keys[0].fingerprint in str(error.value)
    assert keys[1].fingerprint in str(error.value)
    assert "https://x.example/key" in str(error.value)


@pytest.mark.parametrize("armour", [True, False])
def test_a_second_key_beside_the_pinned_one_is_refused(keys: list[Key], armour: bool) -> None:
    both = keys[0].export(armour) + keys[1].export(armour)
    with pytest.raises(RefusedError, match=keys[1].fingerprint):
        pinned_key(both, keys[0].fingerprint, "url")


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"\x99", b"\x99\xff\xff\x04"])
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        pinned_key(data, "A" * 40, "url")


@given(st.binary(max_size=400))
def test_no_bytes_make_it_crash(data: bytes) -> None:
    with pytest.raises(RefusedError):
        pinned_key(data, "A" * 40, "url")


def test_a_damaged_key_is_refused(keys: list[Key], tmp_path: Path) -> None:
    good = keys[0].export()
    for seed in range(50):
        chosen = random.Random(seed)
        cut = good[: chosen.randrange(len(good) - 80)]
        with pytest.raises(RefusedError):
            pinned_key(cut, keys[0].fingerprint, str(tmp_path))
