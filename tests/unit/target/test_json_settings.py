"""Our settings in somebody else's JSON file: theirs are kept, ours go without a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra_llm.core.errors import BadInputError, HostFailedError, RefusedError
from infra_llm.target.json_settings import merge, withdraw

ADMIN = """{
  "registry-mirrors": ["https://mirror.site.example"],
  "features": {"buildkit": true},
  "log-opts": {"max-size": "10m"}
}
"""
RUNTIME = {"path": "nvidia-container-runtime", "args": []}
OURS: dict[str, Any] = {"features.cdi": True, "runtimes.nvidia": RUNTIME}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "daemon.json"


def test_a_new_file_holds_only_our_settings_and_goes_with_them(file: Path) -> None:
    done = merge(str(file), OURS)
    assert done.changed
    assert json.loads(file.read_text()) == {
        "features": {"cdi": True},
        "runtimes": {"nvidia": RUNTIME},
    }
    assert file.stat().st_mode & 0o777 == 0o644
    assert not merge(str(file), OURS, done.record).changed
    assert withdraw(str(file), done.record).changed
    assert not file.exists()


def test_the_administrators_settings_are_kept_and_come_back_byte_by_byte(file: Path) -> None:
    file.write_text(ADMIN)
    file.chmod(0o600)
    done = merge(str(file), OURS)
    assert json.loads(file.read_text()) == {
        "registry-mirrors": ["https://mirror.site.example"],
        "features": {"buildkit": True, "cdi": True},
        "log-opts": {"max-size": "10m"},
        "runtimes": {"nvidia": RUNTIME},
    }
    assert next(iter(json.loads(file.read_text()))) == "registry-mirrors"
    assert file.read_text().splitlines()[1].startswith('  "')
    assert file.stat().st_mode & 0o777 == 0o600
    withdraw(str(file), done.record)
    assert file.read_text() == ADMIN


def test_what_the_administrator_adds_later_outlives_us(file: Path) -> None:
    done = merge(str(file), OURS)
    data = json.loads(file.read_text())
    data["debug"] = True
    data["runtimes"]["nvidia"]["args"] = ["--mine"]
    file.write_text(json.dumps(data))
    withdraw(str(file), done.record)
    assert json.loads(file.read_text()) == {
        "debug": True,
        "runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": ["--mine"]}},
    }


def test_a_setting_that_was_there_is_not_ours(file: Path) -> None:
    file.write_text('{"features": {"cdi": true}}')
    done = merge(str(file), {"features.cdi": True})
    assert not done.changed
    assert not withdraw(str(file), done.record).changed
    assert file.read_text() == '{"features": {"cdi": true}}'


def test_a_setting_of_ours_that_is_no_longer_wished_goes(file: Path) -> None:
    file.write_text(ADMIN)
    first = merge(str(file), {"data-root": "/srv/docker", "features.cdi": True})
    second = merge(str(file), {"features.cdi": True}, first.record)
    assert "data-root" not in json.loads(file.read_text())
    third = merge(str(file), {"features.cdi": False}, second.record)
    assert json.loads(file.read_text())["features"] == {"buildkit": True, "cdi": False}
    withdraw(str(file), third.record)
    assert file.read_text() == ADMIN


def test_another_value_of_the_administrators_is_refused_or_kept(file: Path) -> None:
    text = '{"features": {"cdi": false}, "runtimes": {"nvidia": {"path": "/usr/local/bin/nv"}}}'
    file.write_text(text)
    with pytest.raises(RefusedError, match=r"features\.cdi is set to false by somebody else"):
        merge(str(file), OURS, keep=["runtimes.nvidia"])
    assert file.read_text() == text
    done = merge(str(file), OURS, keep=["runtimes.nvidia", "features.cdi"])
    assert done.kept == ["features.cdi", "runtimes.nvidia"]
    assert not done.changed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"debug": true,}', r"broken JSON: .* \(line 1, column 1\d\)"),
        ('{"a": 1}\n{"b": 2}\n', r"Extra data \(line 2, column 1\)"),
        ("// comment\n{}", "line 1, column 1"),
        ('{"debug": true, "debug": false}', "debug is there twice"),
        ("[]", "not a JSON object"),
        ('{"features": ["cdi"]}', "features is no object"),
    ],
)
def test_a_broken_file_is_refused_and_left_alone(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(BadInputError, match=words) as caught:
        merge(str(file), OURS)
    assert caught.value.where == str(file)
    assert file.read_text() == text
    assert [path.name for path in file.parent.iterdir()] == ["daemon.json"]


def test_an_empty_file_is_no_broken_one(file: Path) -> None:
    file.write_text("\n")
    done = merge(str(file), {"features.cdi": True})
    assert json.loads(file.read_text()) == {"features": {"cdi": True}}
    withdraw(str(file), done.record)
    assert file.read_text() == "\n"


def test_check_mode_writes_nothing(file: Path) -> None:
    done = merge(str(file), OURS, check_mode=True)
    assert done.changed
    assert '"cdi": true' in done.after
    assert not file.exists()


def test_what_the_program_does_not_take_is_not_written(file: Path) -> None:
    file.write_text(ADMIN)
    seen = []

    def refuse(argv: Any) -> tuple[int, str, str]:
        seen.append(json.loads(Path(argv[-1]).read_text()))
        return 1, "", "unable to configure the Docker daemon"

    with pytest.raises(HostFailedError, match="dockerd does not take it: unable to configure"):
        merge(
            str(file), OURS, validate=["dockerd", "--validate", "--config-file", "%s"], run=refuse
        )
    assert seen[0]["features"] == {"buildkit": True, "cdi": True}
    assert file.read_text() == ADMIN


def test_a_link_stays_a_link(file: Path) -> None:
    real = file.with_name("managed.json")
    real.write_text(ADMIN)
    file.symlink_to(real)
    merge(str(file), OURS)
    assert file.is_symlink()
    assert json.loads(real.read_text())["features"]["cdi"] is True


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["a", "features", "runtimes", "data-root"]), values))
def test_any_file_comes_back(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]
) -> None:
    file = tmp_path_factory.mktemp("any") / "daemon.json"
    text = json.dumps(data)
    file.write_text(text)
    try:
        done = merge(str(file), OURS)
    except (BadInputError, RefusedError):
        assert file.read_text() == text
        return
    merged = json.loads(file.read_text())
    assert merged["features"]["cdi"] is True
    assert {name: merged[name] for name in data if name not in ("features", "runtimes")} == {
        name: data[name] for name in data if name not in ("features", "runtimes")
    }
    withdraw(str(file), done.record)
    assert file.read_text() == text
