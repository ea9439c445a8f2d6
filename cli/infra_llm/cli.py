"""The command line: one click verb a file under commands/, put together here."""

from __future__ import annotations

import click

from infra_llm import __version__
from infra_llm.commands.fit import fit
from infra_llm.commands.plan import plan
from infra_llm.commands.probe import probe
from infra_llm.commands.provision import provision
from infra_llm.commands.remove import remove
from infra_llm.commands.stack import stack
from infra_llm.commands.status import status
from infra_llm.commands.verify import verify

EPILOG = """\
Exit codes: 0 done, 2 bad usage or input, 3 does not fit, 4 host unreachable, 5 a host failed,
6 verify failed (and rolled back), 7 refused (would be unsafe), 70 a bug of infra-llm, 130
interrupted.
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="infra-llm")
def cli() -> None:
    """Turn bare machines on your own network into working LLM inference nodes."""


for command in (provision, probe, plan, fit, stack, verify, status, remove):
    cli.add_command(command)
