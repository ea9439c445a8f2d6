"""Key and certificate come back after a change that was not proven, and go after one that was."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target import kept_secrets

SECRETS = {"api-key": "old key", "tls/tls.crt": "old certificate", "tls/tls.key": "old private key"}


@pytest.fixture
def state(tmp_path: Path) -> str:
    path = tmp_path / "state.json"
    path.write_text('{"written_at": 1}')
    return str(path)


@pytest.fixture
def etc(tmp_path: Path) -> str:
    folder = tmp_path / "etc"
    write(str(folder), SECRETS)
    return str(folder)


def write(etc: str, secrets: dict[str, str]) -> None:
    for name, content in secrets.items():
        path = Path(etc, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def there(etc: str) -> dict[str, str]:
    """Every file below, by its name."""
    return {
        str(path.relative_to(etc)): path.read_text()
        for path in sorted(Path(etc).rglob("*"))
        if path.is_file()
    }


def remove(etc: str) -> None:
    for name in SECRETS:
        Path(etc, name).unlink()
    Path(etc, "tls").rmdir()


def test_what_was_replaced_or_removed_comes_back_for_root_alone(etc: str, state: str) -> None:
    assert kept_secrets.keep(etc, state)
    remove(etc)
    write(etc, {"api-key": "new key"})
    assert kept_secrets.give_back(etc, state)
    assert there(etc) == SECRETS
    for name in SECRETS:
        assert stat.S_IMODE(Path(etc, name).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(etc, "tls").stat().st_mode) == 0o700
    assert not kept_secrets.is_kept(etc)
    # Going back twice is the same as once.
    assert not kept_secrets.give_back(etc, state)
    assert there(etc) == SECRETS


def test_nobody_else_can_read_what_is_kept(etc: str, state: str) -> None:
    before = os.umask(0)
    try:
        kept_secrets.keep(etc, state)
    finally:
        os.umask(before)
    folder = Path(etc, kept_secrets.FOLDER)
    for path in (folder, *folder.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_proven_means_forgotten_and_not_proven_does_not(etc: str, state: str) -> None:
    kept_secrets.keep(etc, state)
    write(etc, {"api-key": "new key"})
    assert not kept_secrets.forget(etc, state)
    assert kept_secrets.is_kept(etc)
    Path(state).write_text('{"written_at": 2}')
    assert kept_secrets.forget(etc, state)
    assert there(etc) == {**SECRETS, "api-key": "new key"}
    assert not kept_secrets.forget(etc, state)


def test_after_a_run_that_was_cut_off_the_proven_ones_are_gone_back_to(
    etc: str, state: str
) -> None:
    kept_secrets.keep(etc, state)
    write(etc, {"api-key": "a key that was never proven"})
    assert kept_secrets.keep(etc, state)
    assert Path(etc, "api-key").read_text() == "old key"
    write(etc, {"api-key": "a third key"})
    kept_secrets.give_back(etc, state)
    assert there(etc) == SECRETS


def test_what_another_state_came_after_is_never_given_back(etc: str, state: str) -> None:
    kept_secrets.keep(etc, state)
    write(etc, {"api-key": "new key"})
    Path(state).write_text('{"written_at": 2}')
    assert not kept_secrets.give_back(etc, state)
    assert there(etc) == {**SECRETS, "api-key": "new key"}
    # Likewise where it was still lying there when the next change began.
    kept_secrets.keep(etc, state)
    Path(state).write_text('{"written_at": 3}')
    kept_secrets.keep(etc, state)
    write(etc, {"api-key": "a third key"})
    kept_secrets.give_back(etc, state)
    assert Path(etc, "api-key").read_text() == "new key"


def test_one_that_was_cut_off_while_it_copied_is_made_anew(etc: str, state: str) -> None:
    half = Path(etc, kept_secrets.FOLDER + ".new")
    half.mkdir()
    (half / "api-key").write_text("o")
    kept_secrets.keep(etc, state)
    write(etc, {"api-key": "new key"})
    kept_secrets.give_back(etc, state)
    assert there(etc) == SECRETS


def test_a_host_that_has_none_is_left_alone(tmp_path: Path, state: str) -> None:
    etc = str(tmp_path / "nothing")
    for act in (kept_secrets.keep, kept_secrets.give_back, kept_secrets.forget):
        assert not act(etc, state)
    assert not Path(etc).exists()


def test_check_mode_says_it_and_does_not_do_it(etc: str, state: str) -> None:
    assert kept_secrets.keep(etc, state, check_mode=True)
    assert there(etc) == SECRETS
    kept_secrets.keep(etc, state)
    write(etc, {"api-key": "new key"})
    now = there(etc)
    assert kept_secrets.give_back(etc, state, check_mode=True)
    Path(state).write_text('{"written_at": 2}')
    assert kept_secrets.forget(etc, state, check_mode=True)
    assert there(etc) == now


def test_what_fails_is_said_with_the_place(etc: str, state: str) -> None:
    Path(etc, kept_secrets.FOLDER + ".new").write_text("a file where the folder is to be")
    with pytest.raises(HostFailedError, match="can't be put aside") as failed:
        kept_secrets.keep(etc, state)
    assert failed.value.where == f"{etc}/{kept_secrets.FOLDER}"
