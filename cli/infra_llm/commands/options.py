"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from infra_llm.runner.run import Request

F = TypeVar("F", bound=Callable[..., Any])

_FLEET = (
    click.option(
        "--inventory",
        "-i",
        type=click.Path(path_type=Path),
        required=True,
        help="Ansible inventory: a file, a folder or an executable.",
    ),
    click.option("--limit", "-l", metavar="HOSTS", help="Only these hosts or groups."),
    click.option("--forks", type=click.IntRange(1, 500), default=20, show_default=True),
    click.option("--ask-become-pass", "-K", is_flag=True, help="Ask for the sudo password."),
    click.option("-v", "--verbose", count=True, help="Say more; -vv shows Ansible's own output."),
    click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout."),
)


def fleet_options(function: F) -> F:
    """Options of every command that talks to hosts."""
    for option in reversed(_FLEET):
        function = option(function)
    return function


def become_secrets(ask: bool) -> dict[str, str]:
    """The sudo password, asked for on the terminal; it travels in a private file."""
    if not ask:
        return {}
    return {"ansible_become_password": click.prompt("sudo password", hide_input=True, err=True)}


def fleet_request(name: str, given: dict[str, Any], **more: Any) -> Request:
    """A run of playbook `name` as the shared options on the command line say."""
    return Request(
        name=name,
        inventory=given["inventory"],
        limit=given["limit"],
        forks=given["forks"],
        verbosity=max(0, given["verbose"] - 1),
        secrets=become_secrets(given["ask_become_pass"]),
        **more,
    )
