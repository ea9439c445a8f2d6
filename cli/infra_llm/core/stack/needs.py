"""What cards, engines and pins ask of a driver and a toolkit, whatever the source. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from infra_llm.core.stack.cards import common_branches, common_modules
from infra_llm.core.stack.request import AUTO, Card, RefusalError, Request, Trail, names
from infra_llm.core.stack.rules import CudaRelease, EngineNeeds, version_of

KINDS = ("none", "runtime", "toolkit")
"""From the least to the most that an engine needs on the host."""


@dataclass(frozen=True)
class Needs:
    cards: list[Card]
    modules: frozenset[str]
    """Flavours that serve all cards and the pin."""
    first: int
    last: int | None
    engine_branch: int
    """The oldest branch that serves the engines; 0 for any."""
    engine_rule: str
    cuda: str
    """toolkit, runtime or none."""
    releases: list[CudaRelease]
    """Those that compile for every card and serve the engines and the pin, oldest first."""

    def release_for(self, branch: int, majors: dict[str, int], pinned: bool) -> list[CudaRelease]:
        """The releases that run on a driver branch; a pinned one by minor version compatibility."""
        own = [release for release in self.releases if release.driver <= branch]
        if own or not pinned:
            return own
        return [r for r in self.releases if majors[r.version.split(".")[0]] <= branch]


def needs_of(request: Request, cards: list[Card], trail: Trail) -> Needs:
    """Raises RefusalError where cards, engines and pins contradict each other."""
    modules = _modules(request, cards, trail)
    first, last = common_branches(cards, trail)
    _pinned_branch(request, cards, first, last)
    kind, branch, rule = _engines(request, cards, trail)
    return Needs(
        cards=cards,
        modules=frozenset(modules),
        first=first,
        last=last,
        engine_branch=branch,
        engine_rule=rule,
        cuda=kind,
        releases=_releases(request, cards, kind, trail),
    )


def _modules(request: Request, cards: list[Card], trail: Trail) -> set[str]:
    common = common_modules(cards, trail)
    pin = request.wishes.modules
    if pin == AUTO:
        return common
    if pin in common:
        trail.fire("pinned-modules", pin)
        return {pin}
    against = [card for card in cards if pin not in card.modules]
    rule = "open-from-turing" if pin == "open" else "open-only-blackwell"
    raise RefusalError(
        rule,
        f"the {pin} modules are pinned, and {names(against)} has no {pin} modules",
        [
            f"infra_llm_driver_modules: {'proprietary' if pin == 'open' else 'open'}, or auto",
            f"take {names(against)} out",
        ],
    )


def _pinned_branch(request: Request, cards: list[Card], first: int, last: int | None) -> None:
    pin = request.wishes.branch
    if pin is None:
        return
    if request.rules.branch(pin) is None:
        known = ", ".join(str(n) for n in sorted(b.branch for b in request.rules.branches))
        raise RefusalError(
            "unknown-branch",
            f"driver branch {pin} is not in the table",
            [f"infra_llm_driver_branch: auto, or one of {known}"],
        )
    too_old = [card for card in cards if pin < card.generation.first]
    too_new = [card for card in cards if card.generation.last and pin > card.generation.last]
    if too_old or too_new:
        against = names(too_old or too_new)
        limits = f"{first} or later" if last is None else f"{first} to {last}"
        raise RefusalError(
            "branch-knows-card",
            f"branch {pin} is pinned, and it does not know {against}",
            [f"infra_llm_driver_branch: auto, or {limits}", f"take {against} out"],
        )


def _engines(request: Request, cards: list[Card], trail: Trail) -> tuple[str, int, str]:
    """(what of CUDA they need, oldest branch, the rule of that branch)."""
    kind, branch, branch_rule = "none", 0, ""
    for name in request.wishes.engines:
        engine = request.rules.engine(name)
        way = request.wishes.way if request.wishes.way in engine.cuda else ""
        _cards_of(engine, cards)
        trail.fire(engine.rules.get(way, engine.rules[""]), name)
        kind = max(kind, engine.cuda[way], key=KINDS.index)
        wanted = max(engine.branch_for(card.capability) for card in cards)
        if wanted > branch:
            branch, branch_rule = wanted, engine.driver_rule
    return kind, branch, branch_rule


def _cards_of(engine: EngineNeeds, cards: list[Card]) -> None:
    weak = [card for card in cards if card.capability < version_of(engine.capability)]
    if weak:
        raise RefusalError(
            "engine-card",
            f"{engine.name} serves cards from compute capability {engine.capability}, "
            f"not {names(weak)}",
            [
                f"take {names(weak)} out, or give it to a virtual machine (vfio-pci)",
                "choose another engine (llama.cpp and Ollama serve cards from 5.0)",
                "serve from the CPU (llama_cpp_backend: cpu)",
            ],
            names(weak),
        )


def _releases(request: Request, cards: list[Card], kind: str, trail: Trail) -> list[CudaRelease]:
    rules, pin = request.rules, request.wishes.cuda_version
    compiling = [r for r in rules.cuda if all(r.compiles(c.capability) for c in cards)]
    if kind == "none" and pin is None:
        return []
    minimum = [rules.engine(name).minimum_cuda for name in request.wishes.engines]
    oldest = max((version_of(text) for text in minimum if text), default=(0, 0))
    if pin is None:
        found = [r for r in compiling if version_of(r.version) >= oldest]
        trail.fire("cuda-architectures", names(cards))
        if any(card.capability < (7, 5) for card in cards):
            trail.fire("cuda13-from-turing", names([c for c in cards if c.capability < (7, 5)]))
        return found or _no_release(cards)
    release = rules.release(pin)
    if release is None:
        known = ", ".join(r.version for r in rules.cuda)
        raise RefusalError("cuda-pinned", f"CUDA {pin} is not in the table", [f"known: {known}"])
    if release not in compiling:
        _refuse_pin(pin, cards, compiling, release)
    if version_of(pin) < oldest:
        raise RefusalError(
            "cuda-pinned",
            f"CUDA {pin} is pinned, and {', '.join(request.wishes.engines)} needs "
            f"{oldest[0]}.{oldest[1]} or later",
            ["infra_llm_cuda_version: auto"],
        )
    trail.fire("cuda-pinned", pin)
    return [release]


def _no_release(cards: list[Card]) -> list[CudaRelease]:
    raise RefusalError(
        "cuda-architectures",
        f"no CUDA release compiles for all of {names(cards)}",
        ["put the cards into two machines", "give some of them to a virtual machine (vfio-pci)"],
    )


def _refuse_pin(
    pin: str, cards: list[Card], compiling: list[CudaRelease], release: CudaRelease
) -> None:
    against = [card for card in cards if not release.compiles(card.capability)]
    old = any(card.capability < version_of(release.first) for card in against)
    others = ", ".join(r.version for r in compiling[-3:]) or "none"
    raise RefusalError(
        "cuda13-from-turing" if old and version_of(pin) >= (13, 0) else "cuda-architectures",
        f"CUDA {pin} is pinned, and it can't compile for {names(against)}",
        [f"infra_llm_cuda_version: auto, or one of {others}", f"take {names(against)} out"],
        names(against),
    )
