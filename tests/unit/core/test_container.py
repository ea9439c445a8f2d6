"""vLLM in a container: which image a host gets, and the command that runs it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import yaml
from tests import samples
from tests.unit.core.test_vllm import PLACE

from infra_llm.core.catalogue import check_model, with_own_engines
from infra_llm.core.codec import from_dict
from infra_llm.core.engines import ENGINES, Launch, LaunchContext
from infra_llm.core.engines.vllm import launch
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import Gpu
from infra_llm.core.layout import layout_of
from infra_llm.core.plan import LaunchPlan
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.launching import prepare
from infra_llm.runner.planning import Planned

ARCHIVE = {
    "filename": "vllm.tar",
    "version": "0.32.0",
    "sha256": "a" * 64,
    "size": 9_000_000_000,
    "places": [{"kind": "path", "path": "/srv/images"}],
}
REGISTRY = {
    "kind": "registry",
    "image": "registry.example/vllm/vllm-openai",
    "digest": "sha256:" + "b" * 64,
}
CARDS = [samples.nvidia(index=n, pci_address=f"0000:0{n}:00.0") for n in range(4)]


def choose(
    gpus: list[Gpu] | None = None, image: Any = None, engine: str = "podman", **wishes: Any
) -> dict[str, Any]:
    own = {"vllm": {"container": {"x86_64": image or ARCHIVE}}}
    catalogue = with_own_engines(load_catalogue(), own if image != {} else {})
    wished = samples.wishes(
        vllm_install_method="container", infra_llm_container_engine=engine, **wishes
    )
    hardware = samples.hardware(gpus=gpus or [])
    (found,) = ENGINES["vllm"].choose(catalogue, hardware, wished, [])["methods"]
    return dict(found)


def made(method: dict[str, Any], tensor: int = 1, pipeline: int = 1) -> Launch:
    files = [{"filename": "config.json", "sha256": "1" * 64, "size": 1, "places": [PLACE]}]
    flags = {
        "tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline, "max_model_len": 2048,
    }  # fmt: skip
    devices = [{"name": "card"}] * (tensor * pipeline) if method["devices"] else []
    data = {"engine": "vllm", "fits": True, "flags": flags, "devices": devices}
    plan = from_dict(LaunchPlan, data, "plan")
    model = check_model({"files": files}, "tiny", "test")
    wishes = samples.wishes(infra_llm_model="tiny")
    layout = layout_of("second", "vllm")
    return launch(
        LaunchContext(
            plan, model, wishes, layout, method=method, start_seconds=6020, memory_max_mib=4000
        )
    )


def test_an_image_needs_no_python_of_the_host_and_belongs_to_its_engine() -> None:
    podman, docker = choose(), choose(engine="docker")
    assert podman["image"]["sha256"] == "a" * 64
    assert podman["release"].startswith("podman-0.32.0-")
    assert podman["artifact"]["installed"] == podman["artifact"]["size"]
    # What lies in docker is not in podman: the same archive is another installation.
    assert podman["artifact"]["sha256"] != docker["artifact"]["sha256"]


def test_an_image_of_a_registry_is_named_by_its_digest() -> None:
    found = choose(image={**ARCHIVE, "places": [REGISTRY]})
    assert found["image"]["places"] == [REGISTRY]
    without = {name: value for name, value in REGISTRY.items() if name != "digest"}
    with pytest.raises(BadInputError, match="lacks digest"):
        choose(image={**ARCHIVE, "places": [without]})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"engine": "none"}, "needs docker or podman, not none"),
        ({"engine": "auto"}, "not auto"),
        ({"image": {}}, "no image of vllm for x86_64"),
        ({"infra_llm_service_manager": "supervisor"}, "systemd units only"),
        ({"gpus": [samples.nvidia(compute_capability="7.0")]}, "the least is 7.5"),
    ],
)
def test_what_can_not_be_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        choose(**given)
    assert caught.value.hint


def test_the_container_may_write_only_its_cache_and_gets_no_capability() -> None:
    found = made(choose())
    words = [*found.program, *found.arguments]
    assert words[0] == "/usr/bin/podman"
    client = words[: words.index("run")]
    # What it runs from is the service's alone; what it runs lies where it may only read.
    assert "--root=/var/lib/containers/infra-llm-second/storage" in client
    assert "--runroot=/run/infra-llm-second-container/storage" in client
    (images,) = [word for word in client if "imagestore" in word]
    assert images.endswith("=/var/lib/containers/infra-llm-second/images")
    assert found.container == {
        "engine": "podman", "name": "infra-llm-second", "user": "infra-llm-second",
    }  # fmt: skip
    for option in ("--cap-drop=ALL", "--read-only", "--security-opt=no-new-privileges"):
        assert option in words
    mounts = [word for word in words if word.startswith("--mount=")]
    (writable,) = [mount for mount in mounts if not mount.endswith(",readonly")]
    assert "dst=/var/lib/infra-llm-second/engine" in writable
    assert sum("/etc/infra-llm-second/vllm.yaml" in mount for mount in mounts) == 1
    assert sum("/models/tiny-" in mount for mount in mounts) == 1
    assert words[-4:] == ["{image}", "serve", "--config", "/etc/infra-llm-second/vllm.yaml"]
    assert "--entrypoint=vllm" in words
    assert "--privileged" not in shlex.join(words)
    # The variables are the container's; the client has none of them.
    assert found.environment == {}
    assert "--env=HF_HUB_OFFLINE=1" in words


@pytest.mark.parametrize(
    ("cards", "tensor", "pipeline", "devices"),
    [
        (0, 1, 1, []),
        (2, 2, 1, ["all"]),
        (4, 2, 2, ["all"]),
        (4, 2, 1, ["0", "1"]),
        (1, 1, 1, ["all"]),
    ],
)
def test_the_planned_cards_are_given_by_cdi(
    cards: int, tensor: int, pipeline: int, devices: list[str]
) -> None:
    words = made(choose(gpus=CARDS[:cards], engine="docker"), tensor, pipeline).arguments
    given = [word for word in words if word.startswith("--device=")]
    assert given == [f"--device=nvidia.com/gpu={name}" for name in devices]
    assert f"--shm-size={1024 * tensor * pipeline}m" in words


def test_the_ranks_stand_in_the_configuration_and_are_processes_of_this_host() -> None:
    settings = yaml.safe_load(made(choose(gpus=CARDS), 2, 2).files["vllm.yaml"])
    assert (settings["tensor-parallel-size"], settings["pipeline-parallel-size"]) == (2, 2)
    assert settings["distributed-executor-backend"] == "mp"
    alone = yaml.safe_load(made(choose()).files["vllm.yaml"])
    assert "distributed-executor-backend" not in alone


def test_docker_gets_the_memory_limit_that_a_unit_gives_podman() -> None:
    assert "--memory=4000m" in made(choose(engine="docker")).arguments
    podman = made(choose()).arguments
    assert not any(word.startswith("--memory") for word in podman)


def test_podman_asks_for_no_name_space_that_its_unit_forbids() -> None:
    podman, docker = made(choose()).arguments, made(choose(engine="docker")).arguments
    for space in ("--network=host", "--pid=host", "--ipc=host", "--uts=host", "--cgroupns=host"):
        assert space in podman
    # The only user that there is inside; podman refuses a size of the host's own /dev/shm.
    assert "--user=0:0" in podman
    assert not any(word.startswith("--shm-size") for word in podman)
    assert "--user={user}" in docker


def test_the_unit_says_which_client_it_runs_and_keeps_the_cache() -> None:
    found = unit_of(choose())
    assert found["container"] == "podman"
    assert found["writable"] == [
        "/var/lib/containers/infra-llm/storage", "/var/lib/infra-llm/engine",
    ]  # fmt: skip
    assert unit_of(choose(engine="docker"))["writable"] == ["/var/lib/infra-llm/engine"]
    assert "container" not in unit_of({"method": "venv"})


def unit_of(way: dict[str, Any]) -> dict[str, Any]:
    """The unit of a vLLM that is installed in this way."""
    plan = LaunchPlan("vllm", True, flags={"max_model_len": 4096, "max_num_seqs": 4})
    planned = Planned({}, ["m"], [{"filename": "m", "size": 1 << 20}], [plan.to_dict()], {})
    wishes = samples.wishes(infra_llm_engine="vllm")
    return prepare(planned, samples.hardware(), wishes, layout_of("", "vllm"), way).unit
