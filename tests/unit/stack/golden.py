"""The golden table: what the solver plans for every machine fixture on every distribution.

python -m tests.unit.stack.golden     write tests/unit/stack/golden.md anew; read its difference

One line a machine and distribution. A machine that runs the distribution is planned for with its
kernel and driver; on the others it counts as freshly installed with that distribution.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.standins import machine as standin

from infra_llm.core.gpu_table import complete
from infra_llm.core.hardware import HostHardware
from infra_llm.core.stack import StackPlan, StackWishes, solve
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.readers.gpu_table import load_gpu_table
from infra_llm.readers.probe_payload import pynvml_payload
from infra_llm.readers.stack_rules import load_stack_rules
from infra_llm.target.probe import ProbeOptions, probe

TABLE = Path(__file__).parent / "golden.md"
HEAD = """# What the solver plans

Written by `python -m tests.unit.stack.golden`, compared by test_golden.py: every machine of
tests/fixtures/machines on every distribution, llama.cpp, nothing pinned. `*` marks the distribution
that the machine runs (its kernel and driver count); on the others it is freshly installed.

| machine | distribution | driver | modules | from | CUDA | for | besides |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def probe_all(folder: Path) -> dict[str, HostHardware]:
    """Every machine fixture through the real probe, by name."""
    parts = standin.compile_standins(folder / "standins")
    before = os.environ.get("INFRA_LLM_STANDIN_GPUS")
    found = {}
    try:
        for name in standin.names():
            machine, root = standin.load(name), folder / name
            hangs = "hang" in machine.get("faults", {})
            os.environ["INFRA_LLM_STANDIN_GPUS"] = str(standin.build(machine, root, *parts))
            options = ProbeOptions(
                call_timeout_s=1.0 if hangs else 20.0, pynvml_source=pynvml_payload()
            )
            found[name] = probe(str(root), options)
            complete(found[name], load_gpu_table())
    finally:
        os.environ.pop("INFRA_LLM_STANDIN_GPUS")
        if before is not None:
            os.environ["INFRA_LLM_STANDIN_GPUS"] = before
    return found


def planned(host: HostHardware, system: str, wishes: StackWishes | None = None) -> StackPlan:
    rules = load_stack_rules()
    catalogue = load_catalogue()["repositories"]
    return solve(host, rules.distribution(system), wishes or StackWishes(), rules, catalogue)


def table(machines: dict[str, HostHardware]) -> str:
    lines = []
    for name, host in machines.items():
        for distribution in load_stack_rules().distributions:
            runs = distribution.is_it(host.system.distribution, host.system.distribution_version)
            label = distribution.name + ("*" if runs else "")
            lines.append(row(name, label, planned(host, distribution.name)))
    return HEAD + "\n".join(lines) + "\n"


def row(name: str, system: str, plan: StackPlan) -> str:
    if plan.refused:
        return f"| {name} | {system} | refused | {plan.rules[-1].id} | | | | {plan.reason} |"
    if plan.driver is None:
        why = ", ".join(dict.fromkeys(rule.id for rule in plan.rules if rule.id != "other-os"))
        return f"| {name} | {system} | none | | | none | | {why} |"
    driver, cuda = plan.driver, plan.cuda
    besides = [
        "Fabric Manager" if plan.fabric_manager else "",
        driver.module_stream,
        "headers" if driver.headers else "",
        "MOK" if driver.mok else "",
        "reboot" if plan.reboot.needed else "",
    ]
    return (
        f"| {name} | {system} | {driver.branch or '-'} | {driver.modules} | {driver.source} "
        f"| {f'{cuda.version} {cuda.kind}'.strip()} | {' '.join(plan.architectures)} "
        f"| {', '.join(text for text in besides if text)} |"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        TABLE.write_text(table(probe_all(Path(scratch))))
