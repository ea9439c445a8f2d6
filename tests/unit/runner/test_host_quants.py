"""One model in several quants: every host gets its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests import descriptors, samples

from infra_llm.core.model import ModelProfile
from infra_llm.runner.host import (
    Decision,
    decide_host,
)

Decide = Callable[..., Decision]


LADDER = ("Q4_0", "Q4_K_M", "Q8_0")


@pytest.fixture(scope="session")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProfile]:
    """Headers of Llama 2 7B by file name."""
    folder = tmp_path_factory.mktemp("ladder")
    return {f"{q}.gguf": descriptors.profile(f"llama-2-7b.{q}", folder) for q in LADDER}


def ladder_wishes(**changes: Any) -> dict[str, Any]:
    sizes = [3_800, 4_100, 7_200]
    files = [
        {"filename": f"{q}.gguf", "sha256": f"{n}" * 64, "size": size << 20}
        for n, (q, size) in enumerate(zip(LADDER, sizes, strict=True))
    ]
    place = [{"kind": "url", "url": "http://site.test/llama-2-7b"}]
    own = {"llama": {"licence": "llama2", "places": place, "quants": files}}
    return samples.wishes(infra_llm_model="llama", infra_llm_models=own, **changes)


def card_host(vram_mib: int) -> dict[str, Any]:
    """A host with one card."""
    card = samples.nvidia(vram_total_mib=vram_mib)
    parts = {"gpu:0": f"RTX {vram_mib}", "all": str(vram_mib)}
    return samples.hardware(gpus=[card], fingerprint=parts).to_dict()


@pytest.mark.parametrize(
    ("vram", "speed", "quant"),
    [(24_576, 30, "Q8_0"), (9_000, 30, "Q8_0"), (7_000, 30, "Q4_K_M"), (4_800, 60, "Q4_0")],
)
def test_every_host_gets_the_best_quant_that_fits_it(
    ladder: dict[str, ModelProfile], vram: int, speed: float, quant: str
) -> None:
    wished = ladder_wishes(
        infra_llm_context=2048,
        infra_llm_minimum_speed=speed,
    )

    def read(artifact: Mapping[str, Any], _site: Mapping[str, Any]) -> ModelProfile:
        return ladder[artifact["filename"]]

    hardware = card_host(vram)
    first = decide_host("node", samples.audit(hardware=hardware), wished, {}, read)
    assert first.desired["model"]["filename"] == f"{quant}.gguf"
    assert first.desired["launch"]["model"].endswith(f"/{quant}.gguf")
    assert first.desired["plan"]["model"]["quant"] == quant
    rungs = [a["change"] for a in first.desired["plan"]["alternatives"]]
    assert {f"quant {other}" for other in LADDER if other != quant} <= set(rungs)
    second = decide_host("node", samples.applied(first, hardware=hardware), wished, {}, read)
    assert second.desired == first.desired
    if vram == 24_576:
        swapped = samples.applied(first, hardware=card_host(7_000))
        less = decide_host("node", swapped, wished, {}, read)
        assert less.desired["model"]["filename"] == "Q4_K_M.gguf"
        assert "model Q8_0.gguf -> Q4_K_M.gguf" in [change["text"] for change in less.changes]
        assert "model_store" in less.due


@pytest.mark.parametrize(
    ("vendor", "wish", "layers"),
    [
        ("nvidia", {"llama_cpp_install_method": "wheel"}, 0),
        ("nvidia", {"llama_cpp_install_method": "source", "llama_cpp_backend": "cpu"}, 0),
        ("nvidia", {"llama_cpp_install_method": "source"}, 23),
        ("nvidia", {"llama_cpp_install_method": "source", "llama_cpp_backend": "vulkan"}, 23),
        ("amd", {}, 0),
        ("amd", {"llama_cpp_install_method": "source", "llama_cpp_backend": "vulkan"}, 23),
    ],
)
def test_no_layer_is_planned_onto_a_card_that_the_build_can_not_use(
    decide: Decide, vendor: str, wish: dict[str, Any], layers: int
) -> None:
    card = samples.nvidia(vendor=vendor)
    hardware = samples.hardware(gpus=[card]).to_dict()
    wished = samples.wishes(**wish)
    first = decide(samples.audit(hardware=hardware), wished)
    plan = first.desired["plan"]
    assert plan["flags"]["n_gpu_layers"] == layers
    assert len(plan["devices"]) == bool(layers)
    told = [text for text in plan["warnings"] if card.name in text]
    assert bool(told) is not bool(layers), plan["warnings"]
    second = decide(samples.applied(first, hardware=hardware), wished)
    assert second.desired == first.desired
