"""The table of inventory variables: what is taken, what is refused and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from infra_llm.core.errors import BadInputError
from infra_llm.core.value_checks import REPOSITORIES
from infra_llm.core.variables import BY_NAME, PREFIXES, VARIABLES, defaults, problems, wishes
from infra_llm.readers.catalogue_file import load_catalogue


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda v: v.name)
def test_every_default_is_accepted_and_explained(variable: Any) -> None:
    assert variable.check(variable.default) == ""
    assert variable.name.startswith(PREFIXES)
    assert variable.text
    assert variable.accepts


def test_names_are_given_once() -> None:
    assert len(BY_NAME) == len(VARIABLES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("infra_llm_context", 256),
        ("infra_llm_context", 16_777_216),
        ("infra_llm_context", "4096"),
        ("infra_llm_context", " 4096 "),
        ("infra_llm_context", "auto"),
        ("infra_llm_parallel", 1),
        ("infra_llm_parallel", 256),
        ("infra_llm_gpu_layers", 0),
        ("infra_llm_gpu_layers", "99"),
        ("infra_llm_threads", 1024),
        ("infra_llm_port", 1024),
        ("infra_llm_port", 65535),
        ("infra_llm_bind", "::1"),
        ("infra_llm_kv_cache_type", "q8_0"),
        ("infra_llm_service_manager", "supervisor"),
        ("infra_llm_artifact_folders", []),
        ("infra_llm_artifact_folders", ["/srv/bundle"]),
        ("infra_llm_verify_expect", ""),
        ("infra_llm_verify_expect", 2),
        ("infra_llm_model", 7),
        ("infra_llm_models", {"mine": {}}),
        ("llama_cpp_install_method", "wheel"),
        ("infra_llm_minimum_speed", "12.5"),
        ("infra_llm_mig", {"all": []}),
        ("infra_llm_mig", {0: ["1g.10gb"] * 7, "0000:3b:00.0": ["3g.40gb", "4g.40gb"]}),
        ("infra_llm_mig", {"all": ["1g.10gb+me", "1g.24gb+me.all", "1g.24gb-me", "2g.48gb+gfx"]}),
        ("infra_llm_repositories", {"epel": {"url": "file:///srv/epel"}, "nvidia-cuda": {}}),
        ("infra_llm_repositories", {"nvidia-container-toolkit": {"key_fingerprint": "A" * 40}}),
    ],
)
def test_good_values_pass(name: str, value: Any) -> None:
    assert problems({name: value}, final=True) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("infra_llm_context", 0, "from 256 to 16777216"),
        ("infra_llm_context", 255, "from 256 to 16777216"),
        ("infra_llm_context", 16_777_217, "from 256 to 16777216"),
        ("infra_llm_context", -1, "from 256 to 16777216"),
        ("infra_llm_context", "-5", "from 256 to 16777216"),
        ("infra_llm_context", "--5", "whole number of tokens or auto"),
        ("infra_llm_context", "²", "whole number of tokens or auto"),
        ("infra_llm_context", "9" * 5000, "whole number of tokens or auto"),
        ("infra_llm_context", "4k", "whole number of tokens or auto"),
        ("infra_llm_context", "", "whole number of tokens or auto"),
        ("infra_llm_context", "Auto", "whole number of tokens or auto"),
        ("infra_llm_context", 4096.0, "whole number of tokens or auto"),
        ("infra_llm_context", True, "whole number of tokens or auto"),
        ("infra_llm_context", None, "whole number of tokens or auto"),
        ("infra_llm_context", [4096], "whole number of tokens or auto"),
        ("infra_llm_parallel", 0, "from 1 to 256"),
        ("infra_llm_parallel", 257, "from 1 to 256"),
        ("infra_llm_gpu_layers", -1, "from 0 to 1000"),
        ("infra_llm_threads", 0, "from 1 to 1024"),
        ("infra_llm_port", 80, "from 1024 to 65535"),
        ("infra_llm_port", 65536, "from 1024 to 65535"),
        ("infra_llm_port", "auto", "must be a whole number"),
        ("infra_llm_bind", "everywhere", "an IP address"),
        ("infra_llm_bind", 0, "an IP address"),
        ("infra_llm_insecure", "maybe", "true or false"),
        ("infra_llm_insecure", 1, "true or false"),
        ("infra_llm_tls", "yes", "must be site"),
        ("infra_llm_tls", {"certificate": "a.crt"}, "certificate, key"),
        ("infra_llm_tls", {"certificate": "a", "key": 1}, "name files"),
        ("infra_llm_allowed_networks", "10.0.0.0/8", "a list"),
        ("infra_llm_allowed_networks", ["10.0.0.1/8"], "host bits"),
        ("infra_llm_allowed_networks", [10], "a list of networks"),
        ("infra_llm_engine_port", 80, "from 1024"),
        ("infra_llm_kv_cache_type", "q9_9", "q8_0"),
        ("infra_llm_kv_cache_type", ["f16"], "must be one of"),
        ("infra_llm_engine", "llamafile", "llama.cpp"),
        ("infra_llm_service_manager", "upstart", "systemd, supervisor"),
        ("infra_llm_artifact_folders", "/srv", "list of texts"),
        ("infra_llm_artifact_folders", [1], "list of texts"),
        ("infra_llm_model", "", "must not be empty"),
        ("infra_llm_model", "  ", "must not be empty"),
        ("infra_llm_model", None, "must be a text"),
        ("infra_llm_model", True, "must be a text"),
        ("infra_llm_verify_expect", 2.5, "must be a text"),
        ("infra_llm_models", ["mine"], "must be a mapping"),
        ("infra_llm_package_index", {}, "must be a text"),
        ("infra_llm_lock_stale_seconds", 59, "from 60 to 604800"),
        ("llama_cpp_install_method", "pip", "release, wheel, source"),
        ("infra_llm_minimum_speed", 10**400, "0 to 10000"),
        ("infra_llm_minimum_speed", "9" * 400, "0 to 10000"),
        ("infra_llm_minimum_speed", "nan", "0 to 10000"),
        ("infra_llm_mig", ["1g.10gb"], "must map a card"),
        ("infra_llm_mig", {"all": "1g.10gb"}, "must map a card"),
        ("infra_llm_mig", {"all": [1]}, "such as 1g.10gb for all, not 1"),
        ("infra_llm_mig", {"all": ["99g.1gb"]}, "not '99g.1gb'"),
        ("infra_llm_mig", {"all": ["0g.1gb"]}, "not '0g.1gb'"),
        ("infra_llm_mig", {"all": ["1g.0gb"]}, "not '1g.0gb'"),
        ("infra_llm_mig", {"all": ["1g.10gb\n"]}, "not '1g.10gb"),
        ("infra_llm_mig", {"all": ["1g.10gb+x"]}, "not '1g.10gb+x'"),
        ("infra_llm_mig", {"0": [], "1": ["7g.80gb", "7g.80gb"]}, "divide 1 into 7 slices at most"),
        ("infra_llm_mig", {"all": ["4g.40gb", "3g.40gb", "1g.10gb"]}, "not 8"),
        ("infra_llm_repositories", ["epel"], "must map a repository's name"),
        ("infra_llm_repositories", {"nvidia_cuda": {}}, "did you mean nvidia-cuda?"),
        ("infra_llm_repositories", {"docker": {}}, "may name only nvidia-cuda, "),
        ("infra_llm_repositories", {1: {}}, "not 1"),
        ("infra_llm_repositories", {"epel": {"gpgkey": "x"}}, "may give epel only url"),
    ],
)
def test_impossible_values_are_refused_in_words(name: str, value: Any, words: str) -> None:
    (problem,) = problems({name: value}, final=True)
    assert problem.startswith(f"{name} is ")
    assert words in problem
    with pytest.raises(BadInputError):
        wishes({name: value}, "node")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("infra_llm_contxt", "infra_llm_context"),
        ("infra_llm_modle", "infra_llm_model"),
        ("infra_llm_ports", "infra_llm_port"),
        ("llama_cpp_install_methode", "llama_cpp_install_method"),
    ],
)
def test_a_typing_mistake_is_answered_with_the_name_that_was_meant(typed: str, meant: str) -> None:
    assert problems({typed: 1}, final=False) == [f"unknown variable {typed}; did you mean {meant}?"]


def test_a_name_that_is_near_nothing_points_at_the_table() -> None:
    assert problems({"infra_llm_zzzzzzzzzzzzzzz": 1}, final=False) == [
        "unknown variable infra_llm_zzzzzzzzzzzzzzz; see docs/variables.md"
    ]


def test_variables_of_others_are_none_of_our_business() -> None:
    foreign = {"ansible_host": 1, "llm_context": 0, "port": "x", "infra_llm_run": {"id": 1}}
    assert problems(foreign, final=True) == []


@pytest.mark.parametrize(
    "value",
    ["{{ 8000 + 1 }}", "{% if true %}9000{% endif %}", {"__ansible_vault": "$ANSIBLE_VAULT;1.1"}],
)
def test_templates_and_vault_are_left_for_later_but_not_in_the_end(value: Any) -> None:
    assert problems({"infra_llm_port": value}, final=False) == []
    assert len(problems({"infra_llm_port": value}, final=True)) == 1


def test_wishes_fill_in_defaults_and_make_numbers_of_texts() -> None:
    found = wishes({"infra_llm_port": "9000", "infra_llm_context": 512, "other": 1}, "node")
    assert found == defaults() | {"infra_llm_port": 9000, "infra_llm_context": 512}
    assert type(found["infra_llm_port"]) is int


def test_a_text_that_ini_turned_into_a_number_is_a_text_again() -> None:
    found = wishes({"infra_llm_verify_expect": 2, "infra_llm_model": 7}, "node")
    assert (found["infra_llm_verify_expect"], found["infra_llm_model"]) == ("2", "7")


def test_a_text_of_digits_stays_a_text_where_texts_are_expected() -> None:
    assert wishes({"infra_llm_verify_expect": "42"}, "node")["infra_llm_verify_expect"] == "42"


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(BadInputError) as caught:
        wishes({"infra_llm_port": 1, "infra_llm_parallel": 0, "infra_llm_x": 1}, "node")
    assert caught.value.where == "node"
    assert "docs/variables.md" in caught.value.hint
    for name in ("infra_llm_port", "infra_llm_parallel", "infra_llm_x"):
        assert name in caught.value.what


@pytest.mark.parametrize("key", ["short", "with spaces in the key", "x" * 300, 1234567890123456])
def test_a_key_that_is_refused_is_not_shown(key: object) -> None:
    (text,) = problems({"infra_llm_api_key": key}, final=True)
    assert "16 to 256 characters" in text
    assert str(key) not in text


def test_a_long_value_is_cut() -> None:
    (text,) = problems({"infra_llm_engine": "x" * 5000}, final=True)
    assert len(text) < 400
    assert "xxx...: it must be one of" in text
    (text,) = problems({"infra_llm_context": 10**5000}, final=True)
    assert "is a number of thousands of digits: it must be from 256" in text


def test_the_repositories_are_those_of_the_catalogue() -> None:
    assert {entry["name"] for entry in load_catalogue()["repositories"]} == {*REPOSITORIES}


def test_a_key_of_digits_stays_a_text_and_yes_becomes_true() -> None:
    found = wishes({"infra_llm_api_key": "1234567890123456", "infra_llm_insecure": "yes"}, "h")
    assert found["infra_llm_api_key"] == "1234567890123456"
    assert found["infra_llm_insecure"] is True
