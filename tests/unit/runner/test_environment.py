"""What Ansible is given of our environment, and where it finds our content."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra_llm.content import content_root, playbook
from infra_llm.runner import index
from infra_llm.runner.environment import ansible_environment

ROOT = Path(__file__).parents[3]
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))


def test_a_secret_of_the_shell_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PYTHONPATH", "LD_PRELOAD"):
        monkeypatch.setenv(name, "s3cret")
    found = ansible_environment()
    assert "s3cret" not in found.values()
    assert "PYTHONPATH" not in found


@pytest.mark.parametrize(
    "name",
    [
        "HOME",
        "SSH_AUTH_SOCK",
        "PIP_INDEX_URL",
        "ANSIBLE_SSH_ARGS",
        "ANSIBLE_VAULT_PASSWORD_FILE",
        "http_proxy",
        "HTTPS_PROXY",
        "SSL_CERT_FILE",
    ],
)
def test_what_ansible_needs_is_passed_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "value")
    assert ansible_environment()[name] == "value"


def test_ours_wins_over_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_HOST_KEY_CHECKING", "False")
    monkeypatch.setenv("ANSIBLE_CONFIG", "/etc/ansible/ansible.cfg")
    found = ansible_environment()
    assert found["ANSIBLE_HOST_KEY_CHECKING"] == "True"
    assert found["ANSIBLE_CONFIG"] == str(ROOT / "ansible.cfg")


@pytest.mark.parametrize(
    ("name", "value", "ours"),
    [
        ("LC_ALL", "C", "C.UTF-8"),
        ("LC_ALL", "de_DE", "C.UTF-8"),
        ("ANSIBLE_VERBOSITY", "4", "0"),
        ("ANSIBLE_DEBUG", "1", "False"),
        ("ANSIBLE_DISPLAY_TRACEBACK", "always", "never"),
        ("ANSIBLE_FORCE_COLOR", "1", "False"),
    ],
)
def test_what_spoils_the_output_that_we_read_is_not_passed_on(
    name: str, value: str, ours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert ansible_environment()[name] == ours


def test_the_interpreters_own_folder_is_first_on_path() -> None:
    path = ansible_environment()["PATH"].split(os.pathsep)
    assert path[0] == str(Path(sys.executable).parent)
    assert path[1:] == os.environ["PATH"].split(os.pathsep)


def test_the_process_itself_keeps_its_environment() -> None:
    before = dict(os.environ)
    ansible_environment()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("option", "variable"),
    [
        ("roles_path", "ANSIBLE_ROLES_PATH"),
        ("library", "ANSIBLE_LIBRARY"),
        ("action_plugins", "ANSIBLE_ACTION_PLUGINS"),
        ("module_utils", "ANSIBLE_MODULE_UTILS"),
    ],
)
def test_ansible_cfg_names_the_folders_of_the_environment(option: str, variable: str) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "ansible.cfg")
    in_file = ROOT / config["defaults"][option]
    assert in_file.is_dir()
    assert Path(ansible_environment()[variable]) == in_file


@pytest.mark.parametrize(
    ("section", "option", "variable"),
    [
        ("defaults", "host_key_checking", "ANSIBLE_HOST_KEY_CHECKING"),
        ("defaults", "interpreter_python", "ANSIBLE_INTERPRETER_PYTHON"),
        ("defaults", "retry_files_enabled", "ANSIBLE_RETRY_FILES_ENABLED"),
        ("ssh_connection", "pipelining", "ANSIBLE_PIPELINING"),
    ],
)
def test_ansible_cfg_sets_what_the_environment_sets(
    section: str, option: str, variable: str
) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "ansible.cfg")
    assert config[section][option] == ansible_environment()[variable]


def test_content_is_found_from_the_package() -> None:
    assert content_root() == ROOT
    assert playbook("provision") == ROOT / "playbooks" / "provision.yml"
    assert {"audit", "provision", "remove", "settle", "verify"} <= set(PLAYBOOKS)


def test_our_playbooks_are_valid(tmp_path: Path) -> None:
    """From another folder, with the CLI's environment: what syntax-check needs is found there."""
    files = [str(playbook(name)) for name in PLAYBOOKS]
    done = subprocess.run(
        ["ansible-playbook", "--syntax-check", "-i", "localhost,", *files],
        env=ansible_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for name in PLAYBOOKS:
        assert f"{name}.yml" in done.stdout


def settings(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], printed: str) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:] == ["-m", "pip", "config", "list"]
        return subprocess.CompletedProcess(command, 0, printed, "")

    monkeypatch.setattr(index.subprocess, "run", pip)
    monkeypatch.setattr(index, "_pip_default", lambda: "https://default.test/simple")


@pytest.mark.parametrize(
    ("environment", "printed", "indexes"),
    [
        ({}, "", ["https://default.test/simple"]),
        ({}, "global.index-url='https://a.test/simple'\n", ["https://a.test/simple"]),
        (
            {},
            "global.index-url='https://a.test'\nglobal.extra-index-url='https://b.test https://c.test'\n",
            ["https://a.test", "https://b.test", "https://c.test"],
        ),
        (
            {"PIP_INDEX_URL": "https://e.test"},
            "global.index-url='https://a.test'\n",
            ["https://e.test"],
        ),
        (
            {"PIP_EXTRA_INDEX_URL": "https://x.test"},
            "",
            ["https://default.test/simple", "https://x.test"],
        ),
        ({}, "install.index-url='file:///srv/wheels'\n", []),
        (
            {},
            "global.timeout='60'\nfreeze.index-url='https://no.test'\n",
            ["https://default.test/simple"],
        ),
    ],
)
def test_the_index_is_the_one_that_pip_uses(
    environment: dict[str, str],
    printed: str,
    indexes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings(monkeypatch, environment, printed)
    assert index.package_indexes() == indexes


def test_pip_is_asked_once_for_all_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a third of a second of a core, and every host is planned for in its own process."""
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.test/simple")
    monkeypatch.setattr(index, "_pip_settings", dict)
    given = index.asked()
    monkeypatch.setenv(*next(iter(given.items())))

    def again() -> dict[str, str]:
        raise AssertionError("asked twice")

    monkeypatch.setattr(index, "_pip_settings", again)
    assert index.package_indexes() == ["https://pip.test/simple"]
