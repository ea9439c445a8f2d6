"""Prove on the host that an endpoint serves, and measure how fast and in how much memory.

Standard library, Python 3.8. It returns figures; whether they are good is judged elsewhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from ..core.errors import BadInputError, HostFailedError
from .chat_client import ChatClient, Completion, NoAnswer, Trust
from .container_image import container_pid
from .endpoint_load import (
    compare_meanings,
    embed,
    embed_parallel,
    measure_parallel,
    measure_reading,
    scrape,
)
from .engine_log import START_MARK, of_model, parse_engine_log
from .probe import ProbeOptions, probe
from .process_memory import tree_memory
from .service import Run, ServiceState, last_log_lines, run_command, service_state, start_log
from .vllm_log import START_MARK as VLLM_START_MARK
from .vllm_log import parse_vllm_log

_SLOWEST_LOAD_MIB_S = 25.0
"""A cold disk at its worst; a healthy start is never waited for longer than its size explains."""
_MIB = 1 << 20
_SPEED_PROMPT_WORDS = 280
_SPEED_OUTPUT_TOKENS = 64
_WORDS = (
    "river", "stone", "garden", "window", "paper", "morning", "engine", "silver", "quiet",
    "bridge", "market", "letter", "winter", "orange", "basket", "candle", "forest", "island",
    "kitchen", "ladder", "mirror", "needle", "ocean", "pencil", "rocket", "saddle",
)  # fmt: skip


@dataclass
class Request:
    """What `verify` shall do. `unit` is {"name", "manager", "socket", "container"} or None;
    `container` is the engine that runs the service in a container of the unit's name."""

    url: str
    unit: Optional[Dict[str, Any]] = None
    api_key: str = ""
    engine: str = ""
    """Whose log it is; llama.cpp's where nothing is said."""
    ca_file: str = ""
    """Authority of an https endpoint's certificate; "" for the host's own trust."""
    server_name: str = ""
    """The name that the certificate must be for; "" for the address's own."""
    health: str = "/health"
    """Path that answers 200 once the engine serves."""
    running: str = ""
    """Path that tells which model is loaded and where; "" for an engine that has none."""
    model: str = ""
    """The model to ask; "" for the first that the server names."""
    prompt: str = "What is 1+1?"
    expected: str = "2"
    max_tokens: int = 32
    model_mib: float = 0.0
    health_seconds: Optional[float] = None
    """None: grows with the model."""
    answer_seconds: float = 300.0
    context_length: Optional[int] = None
    """Of one sequence; keeps the speed prompt short enough."""
    measure: bool = True
    parallel: int = 1
    """Requests at once, to measure that, too."""
    metrics: str = ""
    """Path of the engine's metrics; "" for an engine that has none."""
    embeds: bool = False
    """The model gives vectors and does not chat: these are asked for, and compared."""
    runs: int = 1
    """Speed runs; the fastest counts, as whatever else the host does only slows it."""
    gpus: bool = False
    """Ask the driver how much memory of each GPU the service holds."""
    pynvml: str = ""
    """pynvml as the controller packs it."""


def read_api_key(path: Optional[str]) -> str:
    """The first line of the file, "" without a file. Raises BadInputError."""
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError("can't read the API key: {}".format(error), where=path) from error


def health_timeout(model_mib: float) -> float:
    """Seconds to wait for a server that loads `model_mib` MiB: 60 plus the slowest load."""
    return 60.0 + model_mib / _SLOWEST_LOAD_MIB_S


def verify(request: Request, run: Run = run_command) -> Dict[str, Any]:
    """Wait for health, ask the question, measure. All figures as JSON-ready data.

    {"healthy_after_seconds", "model", "answer", "reasoning", "expected", "answered": bool,
    "speed": {...} or None, "parallel": {...} or None, "metrics": {...} or None,
    "embedding": length or None, "meaning": {...} of an embedding model or None,
    "memory": {...} or None, "gpu_memory": [...] or None,
    "engine": EngineLog or VllmLog or None,
    "running": [{"name", "size_mib", "vram_mib", "context_length"}] or None,
    "service": ServiceState or None, "notes": [...]}.
    Raises HostFailedError with the service's last log lines when it never gets healthy or dies.
    """
    client = ChatClient(
        request.url,
        request.api_key,
        request.answer_seconds,
        request.health,
        Trust(request.ca_file, request.server_name),
    )
    seconds = request.health_seconds
    seconds = health_timeout(request.model_mib) if seconds is None else seconds
    healthy = wait_for_health(client, seconds, request.unit, run)
    notes: List[str] = []
    model = request.model or _model_of(client)
    try:
        asked = (_read if request.embeds else _talk)(client, model, request, notes)
        running = loaded_models(client, request.running) if request.running else None
    except HostFailedError as error:
        raise with_log(error, request.unit, run) from error
    state = service_state(request.unit, run) if request.unit else None
    memory = _memory(request.unit, state, run)
    log = _read_log(state, request.engine, model, notes, run) if state else None
    return {
        "healthy_after_seconds": round(healthy, 2),
        "model": model,
        **asked,
        "metrics": scrape(client, request.metrics, notes) if request.metrics else None,
        "memory": memory,
        "gpu_memory": _gpu_memory(request, memory) if request.gpus else None,
        "engine": log,
        "running": running,
        "service": state.to_dict() if state else None,
        "notes": notes,
    }


def _talk(client: ChatClient, model: str, request: Request, notes: List[str]) -> Dict[str, Any]:
    """What a model that writes text answers, and how fast."""
    answer = ask(client, model, request)
    measured: Dict[str, Any] = {"speed": None, "parallel": None, "embedding": None}
    if request.measure:
        measured["speed"] = _speed_or_note(client, model, request, notes)
        measured["parallel"] = measure_parallel(client, model, request.parallel, notes)
        measured["embedding"] = embed(client, model)
    return {
        "answer": answer.text,
        "reasoning": answer.reasoning,
        "expected": request.expected,
        "answered": request.expected.lower() in (answer.text + answer.reasoning).lower(),
        "meaning": None,
        **measured,
    }


def _read(client: ChatClient, model: str, request: Request, notes: List[str]) -> Dict[str, Any]:
    """What an embedding model makes of texts, and how fast."""
    meaning = compare_meanings(client, model)
    measured: Dict[str, Any] = {"speed": None, "parallel": None}
    if request.measure:
        text = speed_prompt(request.context_length, time.monotonic_ns() % 997)
        measured["speed"] = measure_reading(client, model, text)
        measured["parallel"] = embed_parallel(client, model, request.parallel, notes)
    return {
        "answer": "",
        "reasoning": "",
        "expected": "",
        "answered": meaning["near"] > meaning["far"],
        "embedding": meaning["length"],
        "meaning": meaning,
        **measured,
    }


def _memory(
    unit: Optional[Dict[str, Any]], state: Optional[ServiceState], run: Run
) -> Optional[Dict[str, Any]]:
    """Of the service's processes; those of a container are no children of the unit's client."""
    if unit is None or state is None:
        return None
    pid = state.main_pid
    if unit.get("container"):
        pid = container_pid(unit["container"], unit["name"], run)
    return tree_memory(pid) if pid else None


def loaded_models(client: ChatClient, path: str) -> List[Dict[str, Any]]:
    """The models that Ollama has loaded, as its GET /api/ps tells: sizes in MiB,
    `context_length` None where the version does not tell. Raises HostFailedError."""
    try:
        models = client.document(path)["models"]
        return [
            {
                "name": str(model["name"]),
                "size_mib": round(model["size"] / _MIB, 1),
                "vram_mib": round(model["size_vram"] / _MIB, 1),
                "context_length": model.get("context_length"),
            }
            for model in models
        ]
    except (NoAnswer, KeyError, TypeError) as error:
        text = "GET {} does not tell what is loaded: {!r}".format(path, error)
        raise HostFailedError(text, where=client.base_url) from error


def _read_log(
    state: ServiceState, engine: str, model: str, notes: List[str], run: Run
) -> Dict[str, Any]:
    """What the engine said when it started, in its own terms."""
    if engine == "vllm":
        said = parse_vllm_log(start_log(state, VLLM_START_MARK, run))
        if said.kv_cache_tokens is None:
            notes.append("the engine's log does not show its KV cache: it may have been rotated")
        return said.to_dict()
    log = parse_engine_log(of_model(start_log(state, START_MARK, run), model))
    if not log.devices:
        notes.append(
            "the engine's log shows no buffer sizes: it prints them from verbosity 4 on, and logs "
            "may have been rotated away since it was started"
        )
    return log.to_dict()


def _gpu_memory(
    request: Request, memory: Optional[Dict[str, Any]]
) -> Optional[List[Dict[str, Any]]]:
    """What the service's processes hold on each GPU by the driver's own figures, in MiB.

    [{"name", "pci_address", "used_mib": None where the driver does not tell}], None without pids.
    """
    if not memory:
        return None
    host = probe(options=ProbeOptions(pynvml_source=request.pynvml))
    found = []
    for gpu in host.gpus:
        held = [process.used_mib for process in gpu.processes if process.pid in memory["pids"]]
        if held:
            used = None if None in held else sum(mib or 0 for mib in held)
            found.append({"name": gpu.name, "pci_address": gpu.pci_address, "used_mib": used})
    return found


def wait_for_health(
    client: ChatClient,
    seconds: float,
    unit: Optional[Dict[str, Any]] = None,
    run: Run = run_command,
    poll: float = 0.25,
) -> float:
    """Wait until /health says 200; the seconds that took.

    Raises HostFailedError with the last log lines as soon as the service has died, keeps
    dying, or the time is over.
    """
    started = time.monotonic()
    watch = _Watch(unit, run)
    last = "no answer"
    while True:
        try:
            status = client.health()
            if status == 200:
                return time.monotonic() - started
            last = "HTTP {}".format(status)
        except NoAnswer as error:
            last = str(error)
        death = watch.death()
        elapsed = time.monotonic() - started
        if death or elapsed > seconds:
            text = death or "not healthy after {:.0f} s ({})".format(elapsed, last)
            error_ = HostFailedError(text, where=client.base_url)
            raise with_log(error_, unit, run)
        time.sleep(poll)


class _Watch:
    """Notices that a service died, also when its manager started it again meanwhile."""

    def __init__(self, unit: Optional[Dict[str, Any]], run: Run) -> None:
        self._unit, self._run = unit, run
        self._pids: List[int] = []
        self._restarts: Optional[int] = None
        self._idle_since: Optional[float] = None
        self._next_look = 0.0

    def death(self) -> str:
        """Why there is no point in waiting on, "" while there is."""
        now = time.monotonic()
        if self._unit is None or now < self._next_look:
            return ""
        self._next_look = now + 1.0
        state = service_state(self._unit, self._run)
        if state.main_pid and state.main_pid not in self._pids:
            self._pids.append(state.main_pid)
        if self._restarts is None:
            self._restarts = state.restarts
        if len(self._pids) > 1 or (state.restarts or 0) > (self._restarts or 0):
            return "the service {} died while it was starting".format(state.name)
        if not state.exists or state.state.startswith(("failed", "FATAL")):
            return "the service {} is {}{}".format(state.name, state.state, _why(state))
        if state.active or state.main_pid:
            self._idle_since = None
            return ""
        # activating, STARTING and a moment between restarts are no death yet.
        self._idle_since = self._idle_since or now
        if now - self._idle_since > 5.0:
            return "the service {} does not run: {}{}".format(state.name, state.state, _why(state))
        return ""


def _why(state: ServiceState) -> str:
    return " ({})".format(state.detail) if state.detail else ""


def with_log(error: HostFailedError, unit: Optional[Dict[str, Any]], run: Run) -> HostFailedError:
    """The error with the service's last log lines, where there is a service."""
    if unit is None:
        return error
    lines = last_log_lines(service_state(unit, run), 20, run)
    if not lines:
        return HostFailedError(
            "{}; the log of {} is empty".format(error.what, unit["name"]),
            where=error.where,
            hint=error.hint or "start the service's command by hand to see why",
        )
    return HostFailedError(
        "{}\n  last lines of {}:\n    {}".format(error.what, unit["name"], "\n    ".join(lines)),
        where=error.where,
        hint=error.hint or "the engine's own words above say why",
    )


def _model_of(client: ChatClient) -> str:
    try:
        return client.model()
    except NoAnswer:
        return ""


def ask(client: ChatClient, model: str, request: Request) -> Completion:
    """The question, with greedy sampling. Raises HostFailedError."""
    return client.chat(
        [{"role": "user", "content": request.prompt}],
        temperature=0,
        max_tokens=request.max_tokens,
        **({"model": model} if model else {}),
    )


def _speed_or_note(
    client: ChatClient, model: str, request: Request, notes: List[str]
) -> Optional[Dict[str, Any]]:
    try:
        runs = [
            measure_speed(client, model, request.context_length)
            for _ in range(max(1, request.runs))
        ]
        return max(runs, key=lambda run: run["decode_tokens_per_second"] or 0.0)
    except HostFailedError as error:
        if "died" in error.what or "broke off" in error.what:
            raise
        notes.append("speed was not measured: {}".format(error.what))
        return None


def speed_prompt(context_length: Optional[int], seed: int) -> str:
    """About 350 tokens of words, fewer in a small context; other words for each `seed`."""
    words = _SPEED_PROMPT_WORDS
    if context_length:
        # Two tokens a word at worst, the output and the chat template taken off.
        words = max(8, min(words, (context_length - _SPEED_OUTPUT_TOKENS - 64) // 2))
    chosen = [_WORDS[(seed + number * number) % len(_WORDS)] for number in range(words)]
    return "Continue this list of words, number {}: {}".format(seed, " ".join(chosen))


def measure_speed(
    client: ChatClient, model: str, context_length: Optional[int] = None
) -> Dict[str, Any]:
    """Prefill and decode speed of one sequence, prompt cache off.

    {"prefill_tokens", "prefill_tokens_per_second", "decode_tokens", "decode_tokens_per_second",
    "first_token_seconds", "source"}: `source` is "engine" (llama-server's timings) or "clock"
    (usage and the wall clock; prefill then includes queueing and the first token).
    Raises HostFailedError.
    """
    messages = [
        {"role": "user", "content": speed_prompt(context_length, time.monotonic_ns() % 997)}
    ]
    options: Dict[str, Any] = {"temperature": 0, "max_tokens": _SPEED_OUTPUT_TOKENS}
    if model:
        options["model"] = model
    try:
        done = client.chat(messages, cache_prompt=False, ignore_eos=True, **options)
    except HostFailedError as error:
        if not error.what.startswith("HTTP 4"):
            raise
        # A strict server refuses fields that it does not know.
        done = client.chat(messages, **options)
    if not done.timings and not done.usage and done.pieces:
        # llama-cpp-python's server counts tokens only where the answer is not streamed.
        prompt = client.prompt_tokens(messages, **options)
        done.usage = {"prompt_tokens": prompt, "completion_tokens": done.pieces}
    return speed_of(done)


def speed_of(done: Completion) -> Dict[str, Any]:
    """The figures of one completion, see `measure_speed`."""
    timings = done.timings
    if timings.get("prompt_ms") and timings.get("predicted_ms"):
        prefill, decode = int(timings["prompt_n"]), int(timings["predicted_n"])
        prefill_rate = prefill / timings["prompt_ms"] * 1000
        # predicted_ms starts when the first token is there (tools/server/server-context.cpp).
        decode_rate: Optional[float] = max(1, decode - 1) / timings["predicted_ms"] * 1000
        source = "engine"
    else:
        prefill = int(done.usage.get("prompt_tokens") or 0)
        decode = int(done.usage.get("completion_tokens") or 0)
        first = done.first_token_seconds
        if not prefill or not decode or first is None:
            raise HostFailedError("the server tells neither timings nor usage")
        prefill_rate = prefill / first
        rest = done.seconds - first
        decode_rate = (decode - 1) / rest if decode > 1 and rest > 0 else None
        source = "clock"
    return {
        "prefill_tokens": prefill,
        "prefill_tokens_per_second": round(prefill_rate, 2),
        "decode_tokens": decode,
        "decode_tokens_per_second": round(decode_rate, 2) if decode_rate else None,
        "first_token_seconds": (
            None if done.first_token_seconds is None else round(done.first_token_seconds, 4)
        ),
        "source": source,
    }
