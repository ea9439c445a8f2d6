"""A StackPlan for people: what is installed and why, or why nothing serves and the ways out."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra_llm.core.stack.model import DriverPlan, StackPlan


def print_stack(plan: StackPlan, console: Console, *, rules: bool = True) -> None:
    """Print one plan; with `rules` every rule that fired, with what made it and its source."""

    def line(text: str, style: str = "") -> None:
        console.print(text, markup=False, style=style)

    if plan.refused:
        line(f"refused   {plan.reason}", "bold red")
        for way in plan.ways_out:
            line(f"way out   {way}")
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for label, text in stack_rows(plan):
            table.add_row(label, Text(text))
        console.print(table)
    if not rules:
        return
    for rule in plan.rules:
        why = f" ({rule.why})" if rule.why else ""
        title = rule.source.rpartition(" (")[0]
        line(f"- {rule.text}{why} [{rule.id}: {title}, {rule.date}]")


def stack_rows(plan: StackPlan) -> list[tuple[str, str]]:
    """(label, text) of everything that a plan has to say."""
    rows = [("driver", driver_text(plan.driver))]
    cuda = plan.cuda
    if cuda.kind == "none":
        rows.append(("cuda", "none"))
    else:
        packages = f": {' '.join(cuda.packages)}" if cuda.packages else ""
        rows.append(("cuda", f"{cuda.version} {cuda.kind}{packages}"))
    if plan.architectures:
        rows.append(("compiles", "for " + ", ".join(f"sm_{name}" for name in plan.architectures)))
    if plan.fabric_manager:
        rows.append(("fabric", "Fabric Manager of the driver's version"))
    for place, profiles in plan.mig.items():
        rows.append(("mig", f"{place}: {' '.join(profiles) or 'no instances'}"))
    if plan.container is not None:
        toolkit = plan.container
        rows.append(("containers", f"{' '.join(toolkit.packages)} {toolkit.version}, CDI"))
    for repository in plan.repositories:
        where = repository.url or " ".join(repository.components)
        rows.append(("repository", f"{repository.name} ({repository.kind}): {where}"))
    if plan.driver is not None:
        rows.append(("reboot", "; ".join(plan.reboot.why) if plan.reboot.needed else "not needed"))
    return rows


def driver_text(driver: DriverPlan | None) -> str:
    """ "580 open from vendor: nvidia-open", "580 open, kept", or "none"."""
    if driver is None:
        return "none"
    branch = f"{driver.branch} {driver.modules}".strip()
    packages = " ".join([*driver.packages, *driver.headers])
    if driver.source == "present":
        return f"{branch}, kept" + (f", with {packages}" if packages else "")
    stream = f", module stream {driver.module_stream}" if driver.module_stream else ""
    key = ", modules signed with a machine owner key" if driver.mok else ""
    return f"{branch} from {driver.source}{stream}: {packages}{key}"


def stack_line(plan: StackPlan) -> str:
    """One line: "driver 580 open from vendor, CUDA 13.0 toolkit, sm_86"."""
    if plan.refused:
        return f"refused: {plan.reason}"
    driver = plan.driver
    if driver is None:
        return "no NVIDIA driver needed"
    source = "kept" if driver.source == "present" else f"from {driver.source}"
    parts = [f"driver {driver.branch} {driver.modules} {source}".replace("  ", " ")]
    parts.append(f"CUDA {plan.cuda.version} {plan.cuda.kind}" if plan.cuda.version else "no CUDA")
    parts.append(" ".join(f"sm_{name}" for name in plan.architectures))
    extras = {
        "Fabric Manager": plan.fabric_manager,
        "MIG": bool(plan.mig),
        "container toolkit": plan.container is not None,
        "a reboot": plan.reboot.needed,
    }
    return ", ".join([*parts, *(name for name, there in extras.items() if there)])
