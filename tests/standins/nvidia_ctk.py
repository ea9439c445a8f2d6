#!/usr/bin/python3
"""Stand-in for the programs of NVIDIA's container toolkit, chosen by the name it is called by.

nvidia-ctk writes a real CDI specification of the GPUs that the stand-in driver shows; the device
nodes are those of this host (character devices that can be opened, made by the test).
nvidia-container-runtime injects the same edits into an OCI bundle and calls runc: what the real
one does from 1.18 on ("just-in-time CDI"). Standard library; runs in test hosts.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

VERSION = "@VERSION@"
LIBRARY = "*-linux-gnu/libcuda.so.*.*"
FOLDERS = (Path("/var/run/cdi"), Path("/etc/cdi"))


def main() -> int:
    name = Path(sys.argv[0]).name
    if name == "nvidia-container-runtime":
        return runtime(sys.argv[1:])
    if name == "nvidia-container-cli":
        print(f"cli-version: {VERSION}\nlib-version: {VERSION}")
        return 0
    words = [word for word in sys.argv[1:] if word != "--quiet"]
    flags = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    command = [word for word in words if not word.startswith("--")]
    if "version" in flags:
        print(f"NVIDIA Container Toolkit CLI version {VERSION}\ncommit: stand-in")
    elif command == ["config"]:
        write(Path(flags["config-file"]), 'disable-require = false\n\n[nvidia-container-runtime]\n'
              'mode = "auto"\nruntimes = ["runc", "crun"]\n')  # fmt: skip
    elif command == ["cdi", "generate"]:
        path = flags.get("output") or os.environ["NVIDIA_CTK_CDI_OUTPUT_FILE_PATH"]
        write(Path(path), specification())
    elif command == ["cdi", "list"]:
        texts = [path.read_text() for folder in FOLDERS for path in folder.glob("*.yaml")]
        names = {name for text in texts for name in re.findall(r'- name: "(.*)"', text)}
        print("".join(f"nvidia.com/gpu={name}\n" for name in sorted(names)), end="")
    elif command != ["system", "create-device-nodes"]:
        print(f"No help topic for '{' '.join(command)}'", file=sys.stderr)
        return 3
    return 0


def gpus() -> list[str]:
    """Indices of the GPUs, as nvidia-smi lists them."""
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    if done.returncode or not Path("/proc/driver/nvidia/version").exists():
        print("failed to initialize NVML: Driver Not Loaded", file=sys.stderr)
        raise SystemExit(1)
    return re.findall(r"^GPU (\d+):", done.stdout, re.MULTILINE)


def nodes(names: list[str]) -> list[Path]:
    """Device nodes for GPUs; only what is a device on this host."""
    paths = [Path(f"/dev/nvidia{name}") for name in [*names, "ctl"]]
    return [path for path in paths if path.is_char_device()]


def specification() -> str:
    """The CDI specification, as YAML."""
    indices = gpus()
    lines = ["---", "cdiVersion: 0.5.0", "kind: nvidia.com/gpu", "devices:"]
    for name, members in [*((index, [index]) for index in indices), ("all", indices)]:
        lines += [f'    - name: "{name}"', "      containerEdits:", "        deviceNodes:"]
        lines += [f"            - path: {path}" for path in nodes(members)]
    lines += ["containerEdits:", "    env:", "        - NVIDIA_VISIBLE_DEVICES=void", "    mounts:"]
    for path in Path("/usr/lib").glob(LIBRARY):
        lines += [f"        - hostPath: {path}", f"          containerPath: {path}",
                  "          options: [ro, nosuid, nodev, bind]"]  # fmt: skip
    return "\n".join(lines) + "\n"


def runtime(words: list[str]) -> int:
    """Give the container its GPUs, then be runc."""
    if "create" in words and "--bundle" in words:
        path = Path(words[words.index("--bundle") + 1], "config.json")
        bundle = json.loads(path.read_text())
        variables = [value.partition("=") for value in bundle["process"].get("env", [])]
        wish = [value for name, _, value in variables if name == "NVIDIA_VISIBLE_DEVICES"]
        if wish and wish[-1] not in ("", "void", "none"):
            inject(bundle["linux"])
            write(path, json.dumps(bundle))
    os.execvp("runc", ["runc", *words])


def inject(linux: dict[str, Any]) -> None:
    """Put the devices into the specification that runc and systemd will know."""
    for path in nodes(gpus()):
        device = path.stat().st_rdev
        number = {"type": "c", "major": os.major(device), "minor": os.minor(device)}
        linux.setdefault("devices", []).append(
            {"path": str(path), "fileMode": 0o666, "uid": 0, "gid": 0, **number}
        )
        linux["resources"]["devices"].append({"allow": True, "access": "rw", **number})


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    raise SystemExit(main())
