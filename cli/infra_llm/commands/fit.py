"""infra-llm fit: the planner with no host."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from infra_llm.commands.hosts import GIB, gpus_named, read_hardware
from infra_llm.core.errors import BadInputError, ExitCode
from infra_llm.core.fit import FitWishes, choose_quant
from infra_llm.core.hardware import Cpu, HostHardware, Memory
from infra_llm.readers.models import read_model, read_models
from infra_llm.report.plan_table import print_plan
from infra_llm.report.terminal import print_json, stdout

ASSUMED_CORES = 8


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("model")
@click.argument("engine_flags", nargs=-1, type=click.UNPROCESSED)
@click.option("--hardware", type=click.Path(dir_okay=False), help="HostHardware as JSON (probe).")
@click.option("--gpu", "gpus", multiple=True, metavar="NAME[xN]", help="A GPU by name, N of it.")
@click.option("--vram", type=float, metavar="GIB", help="Memory of each GPU in GiB.")
@click.option("--ram", type=float, metavar="GIB", help="The machine's RAM in GiB.")
@click.option("--engine", default="llama.cpp", show_default=True)
@click.option("--ctx", "context", type=int, help="Context of all slots together, in tokens.")
@click.option("--parallel", type=int, help="Slots.")
@click.option("--users", type=int, default=1, show_default=True, help="Users at the same time.")
@click.option("--kv-type", help="Cache type: f16, q8_0, q5_1, q4_0 ...")
@click.option("--batch", type=int, help="Logical batch, in tokens.")
@click.option("--ubatch", type=int, help="Micro-batch, in tokens.")
@click.option("--gpu-layers", type=int, help="Layers on the GPUs; the output layer is one.")
@click.option("--tensor-split", help="Share of each GPU: 3,1.")
@click.option("--flash-attn", type=click.Choice(["on", "off"]))
@click.option("--threads", type=int)
@click.option(
    "--engine-build",
    type=click.IntRange(0),
    help="llama.cpp's build number, if not the pinned one.",
)
@click.option("--cpu-moe", type=int, help="Layers whose experts stay on the host.")
@click.option("--min-speed", type=float, help="Decode tokens/s that one user must get.")
@click.option("--mmproj", metavar="FILE", help="Image encoder (mmproj GGUF) that is loaded, too.")
@click.option("--model-draft", metavar="FILE", help="Draft model (GGUF) that is loaded, too.")
@click.option("--json", "as_json", is_flag=True, help="The LaunchPlan as JSON on stdout.")
def fit(model: str, as_json: bool, **options: Any) -> None:
    """Plan a launch of MODEL on hardware that need not be at hand.

    MODEL is a GGUF file or URL, a folder with several quants of a model (the best that fits is
    chosen), or a folder or URL with config.json and safetensors files.
    What stands after -- are flags as the engine spells them; they are kept.
    """
    hardware = _hardware(options)
    models, wishes = read_models(model), _wishes(options)
    if options["mmproj"] is not None:
        encoder = read_model(options["mmproj"])
        models = [dataclasses.replace(each, projector=encoder) for each in models]
    if options["model_draft"] is not None:
        draft = read_model(options["model_draft"])
        models = [dataclasses.replace(each, draft=draft) for each in models]
    _, plan = choose_quant(hardware, models, wishes, options["engine"])
    if as_json:
        print_json(plan.to_dict())
    else:
        print_plan(plan, stdout())
    if not plan.fits:
        raise SystemExit(int(ExitCode.DOES_NOT_FIT))


def _wishes(options: dict[str, Any]) -> FitWishes:
    split = options["tensor_split"]
    try:
        shares = None if split is None else tuple(float(part) for part in split.split(","))
    except ValueError:
        raise BadInputError(
            f"--tensor-split {split!r} is no list of numbers", hint="write it as 3,1"
        ) from None
    flash = options["flash_attn"]
    return FitWishes(
        context=options["context"],
        parallel=options["parallel"],
        users=options["users"],
        kv_type=options["kv_type"],
        gpu_layers=options["gpu_layers"],
        threads=options["threads"],
        batch=options["batch"],
        ubatch=options["ubatch"],
        flash_attention=None if flash is None else flash == "on",
        tensor_split=shares,
        minimum_decode=options["min_speed"],
        cpu_moe_layers=options["cpu_moe"],
        engine_build=options["engine_build"],
        projector_file=options["mmproj"],
        draft_file=options["model_draft"],
        engine_flags=tuple(options["engine_flags"]),
    )


MOST_GIB = 1 << 20


def _mib(options: dict[str, Any], name: str) -> int | None:
    """An option in GiB as MiB, one at least."""
    value: float | None = options[name]
    if value is None:
        return None
    if not 1 / GIB <= value <= MOST_GIB:
        raise BadInputError(
            f"--{name} is {value}", hint=f"give GiB, more than 0 and at most {MOST_GIB:,}"
        )
    return round(value * GIB)


def _hardware(options: dict[str, Any]) -> HostHardware:
    vram, ram = _mib(options, "vram"), _mib(options, "ram")
    if options["hardware"] is not None:
        if options["gpus"]:
            raise BadInputError(
                "--hardware and --gpu exclude each other", hint="give one of the two"
            )
        hardware = read_hardware(Path(options["hardware"]))
    elif ram is None:
        raise BadInputError(
            "no hardware given",
            hint="give --hardware HOST.json, or --ram GIB and perhaps --gpu NAME",
        )
    else:
        hardware = HostHardware(
            cpu=Cpu(cores=ASSUMED_CORES, threads=ASSUMED_CORES, usable_threads=ASSUMED_CORES)
        )
        for text in options["gpus"]:
            try:
                hardware.gpus.extend(gpus_named(text, len(hardware.gpus), options["vram"]))
            except BadInputError as error:
                if options["vram"] is None:
                    error.hint = f"{error.hint or ''}; or give its memory: --vram GIB".lstrip("; ")
                raise
    if vram is not None and not hardware.gpus:
        raise BadInputError(
            "--vram is the memory of a GPU, and none is given", hint="name the card: --gpu NAME"
        )
    if ram is not None:
        hardware.memory = Memory(total_mib=ram)
    if vram is not None:
        for gpu in hardware.gpus:
            gpu.vram_total_mib = vram
            gpu.vram_reserved_mib = None
    return hardware
