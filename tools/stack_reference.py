"""docs/stack.md out of the rules of data/stack.yml."""

from __future__ import annotations

from infra_llm.core.stack.rules import Distribution, EngineNeeds, StackRules
from infra_llm.readers.stack_rules import load_stack_rules

HEAD = """# The NVIDIA stack

One solver decides driver, kernel modules, CUDA and container toolkit of a machine together. It
knows the cards, the distribution, the kernel, Secure Boot, the engine and what the site pins; it
prints the rules that fired, each with its source, and where nothing serves it refuses (exit 7)
and names the ways out.

```
infra-llm stack --gpu "RTX 3090x2" --os debian12            # no host needed
infra-llm stack --gpu "GTX 1080 Ti" --gpu "RTX 5090" --os ubuntu24.04   # a mixed box
infra-llm stack --hardware host.json --engine vllm --json   # a probe's document
infra-llm stack --inventory lab.ini                         # every host, with its own variables
infra-llm stack --gpu T4 --os debian13 --secure-boot --set secure_boot=mok
```

In this order: cards that are left out; whose driver this is (a container's host, WSL, Jetson, DGX
OS); what all cards have in common (flavour of the modules, branches, CUDA releases); what engines
and pins ask for; then a driver that is there is kept if it meets all of that, else the first
source and branch that does is taken, with a toolkit that runs on it. `tests/unit/stack/golden.md`
has the result for every machine fixture on every distribution.

The variables that pin something: `infra_llm_driver_*`, `infra_llm_cuda_*`,
`infra_llm_container_engine`, `infra_llm_secure_boot`, `infra_llm_mig`, `infra_llm_repositories`
([variables.md](variables.md)). A new branch, release or distribution is a line in
`cli/infra_llm/data/stack.yml`, from which this page is made.
"""


def stack_reference(note: str) -> str:
    """The page: tables of what the rules know, then every rule with its source."""
    rules = load_stack_rules()
    title, _, rest = HEAD.partition("\n\n")
    parts = [
        title,
        note,
        rest,
        _generations(rules),
        _branches(rules),
        _cuda(rules),
        _distributions(rules),
        _engines(rules),
        _around(rules),
        _rules(rules),
        _sources(rules),
    ]
    return "\n".join(parts)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _generations(rules: StackRules) -> str:
    rows = [
        [
            g.name,
            ", ".join(g.capabilities),
            ", ".join(g.modules),
            str(g.first),
            str(g.last or "none yet"),
        ]
        for g in rules.generations
    ]
    head = ["generation", "compute capability", "modules", "first branch", "last branch"]
    extra = f"Open modules only, though Hopper has both: {', '.join(rules.open_only)}.\n"
    return "## Cards\n\n" + _table(head, rows) + "\n" + extra


def _branches(rules: StackRules) -> str:
    rows = [
        [
            str(b.branch),
            b.kind,
            "ended" if b.ended else b.ends or "not known",
            b.cuda,
            ", ".join(b.modules),
            "yes" if b.auto else "",
        ]
        for b in sorted(rules.branches, key=lambda b: b.branch)
    ]
    head = ["branch", "kind", "fixes until", "CUDA", "modules", "taken unpinned"]
    return "## Driver branches\n\n" + _table(head, rows)


def _cuda(rules: StackRules) -> str:
    rows = [
        [
            r.version,
            str(r.driver),
            f"{r.first} to {r.last}" + (f" without {', '.join(r.without)}" if r.without else ""),
            "yes" if r.version in rules.cuda_wheels else "",
        ]
        for r in rules.cuda
    ]
    head = ["CUDA", "came with driver", "compiles for", "wheels on indexes"]
    majors = ", ".join(f"{major}: {branch}" for major, branch in rules.cuda_majors.items())
    oldest = f"Oldest driver by minor version compatibility: {majors}.\n"
    return "## CUDA releases\n\n" + _table(head, rows) + "\n" + oldest


def _distributions(rules: StackRules) -> str:
    rows = [
        [
            f"{d.label} (`{d.name}`)",
            f"from {d.vendor.branch}",
            f"from {d.vendor.cuda}",
            _own(d),
            d.own.cuda if d.own else "none",
            "yes" if d.own and d.own.signed else "no",
        ]
        for d in rules.distributions
    ]
    head = ["distribution", "NVIDIA's drivers", "NVIDIA's CUDA", "own driver", "own CUDA", "signed"]
    return "## Distributions\n\n" + _table(head, rows)


def _own(distribution: Distribution) -> str:
    own = distribution.own
    return ", ".join(str(d.branch) for d in own.drivers) if own else "none"


def _engines(rules: StackRules) -> str:
    rows = [
        [e.name, f"from {e.capability}", _needs(e), _driver(e), e.release or e.minimum_cuda or ""]
        for e in rules.engines
    ]
    head = ["engine", "cards", "on the host", "driver", "CUDA"]
    return "## Engines\n\n" + _table(head, rows)


def _needs(engine: EngineNeeds) -> str:
    ways = {way or "else": kind for way, kind in engine.cuda.items()}
    if len(ways) == 1:
        return engine.cuda[""]
    return ", ".join(f"{way}: {kind}" for way, kind in ways.items() if way != "else")


def _driver(engine: EngineNeeds) -> str:
    parts = [f"from {engine.driver}"] if engine.driver else ["any that runs its CUDA"]
    parts += [f"{d.first} to {d.last}: from {d.driver}" for d in engine.drivers]
    return ", ".join(parts)


def _around(rules: StackRules) -> str:
    rows = [[c.name, str(c.instances), str(c.branch)] for c in rules.mig]
    head = ["card with MIG", "most instances", "first branch"]
    return "## MIG\n\n" + _table(head, rows)


def _rules(rules: StackRules) -> str:
    rows = [
        [f"`{r.id}`", r.text.replace("|", "/"), f"[{r.source}](#{r.source})"] for r in rules.rules
    ]
    return "## Rules\n\n" + _table(["id", "rule", "source"], rows)


def _sources(rules: StackRules) -> str:
    lines = [
        f'- <a id="{name}"></a>`{name}`: [{s.title}]({s.url}), {s.date}'
        for name, s in rules.sources.items()
    ]
    intro = "The date is the document's, or of reading it."
    return f"## Sources\n\n{intro}\n\n" + "\n".join(lines) + "\n"
