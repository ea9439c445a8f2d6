"""The Ansible modules: what they document is what they take, and they tell the truth."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .loopback import Loopback, Served, artifact, wheel

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "playbooks" / "library"
MODULES = [
    "cdi_specification",
    "container_engine",
    "cuda_images",
    "cuda_wheels",
    "engine_estimate",
    "engine_unit",
    "fetch_artifact",
    "firewall_rule",
    "host_lock",
    "host_state",
    "json_settings",
    "kept_secrets",
    "nvidia_driver_state",
    "package_set",
    "quantized_model",
    "receipt",
    "release_folder",
    "supervised_service",
    "verify_endpoint",
]
IMPORTS = (
    "access",
    "archives",
    "artifact_tasks",
    "cdi",
    "container_engine",
    "endpoint",
    "engine_estimate",
    "json_settings",
    "kept_secrets",
    "lock",
    "receipts",
    "sealed",
    "supervised",
    "unit_start",
)
PACKAGE = ROOT / "cli" / "infra_llm"
TRAVELS = [
    *sorted((PACKAGE / "target").rglob("*.py")),
    PACKAGE / "core/errors.py",
    PACKAGE / "core/hardware.py",
    PACKAGE / "core/podman.py",
]


def constants(module: str) -> dict[str, str]:
    tree = ast.parse((LIBRARY / f"{module}.py").read_text())
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }


@pytest.mark.parametrize("path", TRAVELS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_targets_need_nothing_but_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
        else:
            continue
        for name in names:
            # The probe brings pynvml along and does without it where there is no GPU.
            assert name.split(".")[0] in {*sys.stdlib_module_names, "pynvml"}, name


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("module", MODULES)
def test_the_documentation_is_the_argument_spec(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible.module_utils import basic

    for name in IMPORTS:
        importlib.import_module("infra_llm.target." + name)
    for name, loaded in list(sys.modules.items()):
        if name.startswith(("infra_llm.core", "infra_llm.target")):
            alias = name.replace("infra_llm", "ansible.module_utils", 1)
            monkeypatch.setitem(sys.modules, alias, loaded)
    given: dict[str, Any] = {}

    class Recorder:
        def __init__(self, **options: Any) -> None:
            given.update(options)
            raise StoppedError

    monkeypatch.setattr(basic, "AnsibleModule", Recorder)
    scope: dict[str, Any] = {"__name__": module}
    exec(compile((LIBRARY / f"{module}.py").read_text(), module, "exec"), scope)
    with pytest.raises(StoppedError):
        scope["main"]()
    assert given["supports_check_mode"] is True
    documented = yaml.safe_load(constants(module)["DOCUMENTATION"])
    assert documented["module"] == module
    assert set(documented["options"]) == set(given["argument_spec"])
    for name, spec in given["argument_spec"].items():
        option = documented["options"][name]
        for key in ("type", "default", "choices", "elements"):
            assert option.get(key) == spec.get(key), f"{name}.{key}"
        assert option.get("required", False) == spec.get("required", False)
    assert yaml.safe_load(constants(module)["EXAMPLES"])
    assert yaml.safe_load(constants(module)["RETURN"])


TASKS = """\
    - host_lock: {path: "{{ base }}.lock", owner: ann@desk, run_id: run1}
    - fetch_artifact: {artifact: "{{ model }}", dest: "{{ base }}/model.gguf", mode: "0640"}
    - fetch_artifact: {alternatives: ["{{ gone }}", "{{ engine }}"], dest: "{{ base }}/engine",
                       extract: true}
    - receipt:
        role: engine
        directory: "{{ base }}/receipts"
        files: "{{ base }}/engine/**"
        directories: ["{{ base }}"]
    - host_lock: {path: "{{ base }}.lock", state: absent, run_id: run1}
"""
HEAD = "- hosts: localhost\n  gather_facts: false\n"
PLAY = f"{HEAD}  check_mode: true\n  tasks:\n{TASKS}" + f"{HEAD}  tasks:\n{TASKS}" * 2


def play(folder: Path, variables: dict[str, Any]) -> list[int]:
    """Run the plays with the real ansible; how many tasks of each changed something."""
    (folder / "play.yml").write_text(PLAY)
    (folder / "vars.json").write_text(json.dumps(variables))
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_LIBRARY": str(LIBRARY),
        "ANSIBLE_MODULE_UTILS": str(ROOT / "cli" / "infra_llm"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
    }
    command = [
        sys.executable, "-m", "ansible.cli.playbook", "-i", "localhost,", "-c", "local",
        "-e", f"ansible_python_interpreter={sys.executable}", "-e", f"@{folder}/vars.json",
        str(folder / "play.yml"), "--diff",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [text.count("changed: [localhost]") for text in done.stdout.split("PLAY [")[1:4]]


def test_the_modules_run_and_check_mode_tells_the_truth(server: Loopback, tmp_path: Path) -> None:
    content, packed = b"GGUF" * 1000, wheel({"pkg/engine.so": b"elf"})
    server.files["/model"] = Served(content)
    server.files["/engine.whl"] = Served(packed)
    engine = artifact(packed, {"kind": "url", "url": server.url + "/engine.whl"}, name="wheel")
    variables = {
        "base": str(tmp_path / "base"),
        "model": artifact(content, {"kind": "url", "url": server.url + "/model"}),
        "gone": {**engine, "name": "release", "sha256": "0" * 64,
                 "places": [{"kind": "url", "url": server.url + "/gone"}]},
        "engine": engine,
    }  # fmt: skip
    # In check mode all but giving the lock back, which was not taken; in the end only the lock.
    assert play(tmp_path, variables) == [4, 5, 2]
    assert (tmp_path / "base/model.gguf").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "base/engine/pkg/engine.so").read_bytes() == b"elf"
    assert (tmp_path / "base/receipts/engine.json").exists()
    assert not (tmp_path / "base.lock").exists()
    assert sorted(path for path, _ in server.requests) == ["/engine.whl", "/gone", "/model"]
