"""Where playbooks, roles and plugins are: inside the wheel, or the repository when editable."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def content_root() -> Path:
    """The folder that holds playbooks/ and roles/."""
    packaged = PACKAGE / "content"
    return packaged if packaged.is_dir() else PACKAGE.parent.parent


def playbook(name: str) -> Path:
    """The path of one of our playbooks."""
    return content_root() / "playbooks" / f"{name}.yml"
