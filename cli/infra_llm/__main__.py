"""Entry point of the command infra-llm."""

from __future__ import annotations

import sys
from typing import Any

import click

from infra_llm.cli import cli
from infra_llm.core.errors import ExitCode, InfraLlmError


def main() -> None:
    """Run the command line; every error of ours becomes words and its exit code."""
    code: Any = ExitCode.DONE
    try:
        code = cli.main(prog_name="infra-llm", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = ExitCode.BAD_INPUT
    except InfraLlmError as error:
        click.echo(f"error: {error}", err=True)
        code = error.code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = ExitCode.INTERRUPTED
    except SystemExit as leaving:
        # click leaves with 1 when the reader of our output went away; our own table has no 1.
        code = ExitCode.DONE if leaving.code == 1 else leaving.code
    sys.exit(int(code or 0))


if __name__ == "__main__":
    main()
