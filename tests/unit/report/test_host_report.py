"""The report says what happened, and its lines work as printed."""

from __future__ import annotations

import io
import json
import shlex
from typing import Any

import pytest
from rich.console import Console
from tests import samples

from infra_llm.core.decide import due_roles
from infra_llm.core.errors import ExitCode
from infra_llm.report.host_report import (
    endpoint,
    host_document,
    outcome_word,
    print_report,
    report_document,
)
from infra_llm.runner.fleet import FleetResult, HostResult

ALL = due_roles([], "llama_cpp", full=True)


def host(name: str = "a", due: list[str] | None = None, **changes: Any) -> HostResult:
    return HostResult(name, **({"documents": samples.documents(due)} | changes))


def printed(*hosts: HostResult, **options: Any) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=200, soft_wrap=True, highlight=False)
    print_report(FleetResult(list(hosts), 3.21), console, **options)
    return stream.getvalue()


ENDS = [code for code in ExitCode if code != ExitCode.BUG]


@pytest.mark.parametrize("code", ENDS)
def test_every_exit_code_has_its_word(code: ExitCode) -> None:
    words = {outcome_word(host(code=other, error="x")) for other in ENDS}
    assert len(words) == len(ENDS)
    assert outcome_word(host(code=code)) in printed(host(code=code, error="x"))


def test_a_host_that_was_changed_is_shown_whole() -> None:
    text = printed(host(due=ALL))
    for words in (
        "Gold 6130 CPU @ 2.10GHz, 16 cores (avx512f avx2 fma f16c), 64.0 GiB RAM, no GPU",
        "debian 12, kernel 6.1.0-40-amd64",
        "llama_cpp differs",
        "llama-server --ctx-size 8192 --n-gpu-layers 0 --threads 16",
        "context 8192: what the model was made for [header]",
        "ok health: ready after 1.5 s",
        "-- memory: +12.0%",
        "http://127.0.0.1:8080/v1",
        "88.0 tokens/s",
        "410.0 tokens/s",
        "1 of 1 hosts done in 3.2 s",
    ):
        assert words in text


def test_what_the_engine_said_before_the_start_is_told() -> None:
    said = {"confirmed": True, "text": "confirmed by llama-fit-params: 343 MiB against 341"}
    documents = samples.documents(ALL, confirm=said)
    assert "confirmed by llama-fit-params: 343 MiB against 341" in printed(
        host(documents=documents)
    )
    assert host_document(host(documents=documents))["confirmation"] == said


def test_an_unchanged_host_is_one_line_and_says_so() -> None:
    text = printed(host())
    assert "nothing differs; no role ran (3.2 s)" in text
    assert "planned" not in text
    assert "88.0 tokens/s" in text, "measured by the run before"
    assert outcome_word(host()) == "unchanged"


def test_every_host_of_a_mixed_fleet_is_told() -> None:
    text = printed(
        host("new", due=ALL),
        host("old"),
        host("gone", documents={}, code=ExitCode.UNREACHABLE, error="no route"),
        host("bad", documents={}, code=ExitCode.HOST_FAILED, error="disk\n  free some"),
    )
    assert "2 of 4 hosts done" in text
    assert "gone: unreachable\n  no route" in text
    assert "bad: failed\n  disk\n  free some" in text


def test_a_gpu_is_named_with_its_memory() -> None:
    documents = samples.documents(ALL)
    machine = samples.hardware(gpus=[samples.nvidia(), samples.nvidia(vram_total_mib=None)])
    documents["decision"]["hardware"] = machine.to_dict()
    text = printed(host(documents=documents))
    assert "NVIDIA GeForce RTX 3060 12.0 GiB + NVIDIA GeForce RTX 3060 ? GiB" in text


def test_what_roles_said_is_shown_of_every_host() -> None:
    said = host(due=ALL, said=["a reboot is needed ([nouveau] drives the card)"])
    assert "a: a reboot is needed ([nouveau] drives the card)" in printed(said)
    assert host_document(said)["said"] == said.said
    failed = host(code=ExitCode.HOST_FAILED, error="x", said=["built the module"])
    assert "a: built the module" in printed(failed)


def test_diffs_only_where_they_are_asked_for() -> None:
    changed = host(due=ALL, diffs=["/etc/x\n- [old]\n+ [new]"])
    assert "+ [new]" in printed(changed, show_diffs=True)
    assert "+ [new]" not in printed(changed)


@pytest.mark.parametrize("odd", ["[/]", "[/bold]", "[red]x", "[kworker/0:1]", "[link=x]y"])
def test_words_of_others_are_printed_as_they_are(odd: str) -> None:
    """Names with brackets are no markup: they may neither vanish nor end in an error."""
    documents = samples.documents(ALL)
    decision = documents["decision"]
    decision["changes"] = [{"role": "llm_service", "text": f"change {odd}"}]
    decision["hardware"]["cpu"]["model"] = f"cpu {odd}"
    decision["hardware"]["system"]["kernel"] = f"kernel {odd}"
    decision["desired"]["model"]["name"] = f"model {odd}"
    decision["desired"]["launch"]["alias"] = f"alias {odd}"
    decision["desired"]["plan"]["why"][0]["text"] = f"why {odd}"
    decision["desired"]["plan"]["host"]["name"] = f"row {odd}"
    documents["verify"]["verdict"]["checks"][0]["detail"] = f"detail {odd}"
    text = printed(
        host(documents=documents), host("b", code=ExitCode.REFUSED, error=f"error {odd}")
    )
    for what in ("change", "cpu", "kernel", "model", "alias", "why", "row", "detail", "error"):
        assert f"{what} {odd}" in text, what


def test_the_curl_line_is_one_command_of_the_shell() -> None:
    wished = samples.desired()
    wished["verify"]["prompt"] = """What's "1+1"? $HOME `id` \\ é"""
    words = shlex.split(endpoint(wished)["curl"])
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:8080/v1/chat/completions"]
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == "smollm2"
    assert body["messages"] == [{"role": "user", "content": wished["verify"]["prompt"]}]


def test_the_python_lines_run_and_ask_the_prompt() -> None:
    wished = samples.desired()
    wished["verify"]["prompt"] = """What's "1+1"? \\ é"""
    asked: dict[str, Any] = {}

    class Client:
        """A stand-in for openai.OpenAI that notes what it was asked."""

        def __init__(self, **options: Any) -> None:
            asked.update(options)
            self.chat = self.completions = self

        def create(self, **options: Any) -> Any:
            asked.update(options)
            message = type("Message", (), {"content": "2"})
            return type("Answer", (), {"choices": [type("Choice", (), {"message": message})]})

    code = endpoint(wished)["python"].replace("from openai import OpenAI\n", "")
    exec(compile(code, "snippet", "exec"), {"OpenAI": Client})
    assert asked["base_url"] == "http://127.0.0.1:8080/v1"
    assert asked["model"] == "smollm2"
    assert asked["messages"][0]["content"] == wished["verify"]["prompt"]


def test_the_document_holds_the_same_facts() -> None:
    result = FleetResult([host("a", ALL), host("b", code=ExitCode.REFUSED, error="held")], 1.234)
    document = json.loads(json.dumps(report_document("provision", result)))
    assert document["schema"] == "infra-llm/report/1"
    assert document["command"] == "provision"
    assert document["exit_code"] == 7
    assert document["seconds"] == 1.23
    first, second = document["hosts"]["a"], document["hosts"]["b"]
    assert first["result"] == "serving"
    assert first["error"] is None
    assert first["roles"] == ALL
    assert first["plan"]["schema"] == "infra-llm/launch-plan/1"
    assert first["measured"]["speed"]["decode_tokens_per_second"] == 88.0
    assert first["verdict"]["passed"] is True
    assert first["endpoint"]["url"] == "http://127.0.0.1:8080/v1"
    assert (second["exit_code"], second["error"]) == (7, "held")


def test_a_host_that_was_never_reached_has_a_document_too() -> None:
    found = host_document(HostResult("a", ExitCode.UNREACHABLE, "no route"))
    assert found["endpoint"] is found["plan"] is found["hardware"] is None
    assert found["roles"] == found["changes"] == []


def test_figures_of_an_unchanged_host_are_those_it_remembers() -> None:
    assert host_document(host())["measured"] == samples.measured()


def test_an_open_endpoint_says_key_authority_and_from_where() -> None:
    desired = samples.desired()
    desired["verify"]["public_url"] = "https://10.0.0.5:8080"
    tls = {"kind": "site", "not_after": "2027-12-24", "sha256": "ab"}
    desired["access"] = {"front": {"key": True, "key_from": "host", "tls": tls}, "insecure": False}
    at = endpoint(desired)
    assert at["from"] == "the network"
    assert "https://10.0.0.5:8080/v1/chat/completions" in at["curl"]
    assert '-H "Authorization: Bearer $INFRA_LLM_API_KEY"' in at["curl"]
    assert "--cacert /" in at["curl"]
    assert 'os.environ["INFRA_LLM_API_KEY"]' in at["python"]
    compile(at["python"], "example", "exec")
    assert "sudo cat /etc/infra-llm/api-key" in at["key"]


def test_an_endpoint_on_loopback_needs_no_key() -> None:
    at = endpoint(samples.desired())
    assert (at["from"], at["key"], at["authority"]) == ("the host", "", "")
    assert "Bearer" not in at["curl"]
    compile(at["python"], "example", "exec")


def test_a_host_that_only_got_its_driver_serves_nothing() -> None:
    assert outcome_word(host(due=["nvidia_driver", "cuda"])) == "stack ready"
    assert outcome_word(host(due=["nvidia_driver", "llm_verify"])) == "serving"


def test_an_embedding_model_is_shown_with_a_request_that_it_answers() -> None:
    wished = samples.desired()
    wished["verify"]["embeds"] = True
    at = endpoint(wished)
    assert "/v1/embeddings " in at["curl"]
    assert "client.embeddings.create" in at["python"]
    compile(at["python"], "shown", "exec")
    assert "chat" not in at["curl"] + at["python"]
