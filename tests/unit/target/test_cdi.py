"""Is the CDI specification that of the driver and the GPUs that there are?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target import cdi

# Shortened from what nvidia-ctk 1.17 writes (nvidia-container-toolkit, pkg/nvcdi/spec tests).
YAML = """---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
    - name: "1"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia1
    - name: all
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
containerEdits:
    hooks:
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args: [nvidia-cdi-hook, create-symlinks, --link, libcuda.so.1::/usr/lib/libcuda.so]
    mounts:
        - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.{version}
          containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.{version}
        - hostPath: /usr/lib/x86_64-linux-gnu/libnvidia-egl-wayland.so.1.1.13
"""
JSON = (
    '{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[{"name":"0:1","containerEdits":{}},'
    '{"name":"all"}],"containerEdits":{"mounts":[{"hostPath":"/usr/lib/libcuda.so.595.58.03"}]}}'
)
NVRM = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build\n"
TWO = "GPU 0: NVIDIA L4 (UUID: GPU-1)\nGPU 1: NVIDIA L4 (UUID: GPU-2)\n"
MIG = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)
  MIG 3g.20gb     Device  0: (UUID: MIG-1)
  MIG 3g.20gb     Device  1: (UUID: MIG-2)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-2)
"""


class Machine:
    """A host with a driver and, when asked, a new specification."""

    def __init__(self, root: Path, driver: str = "595.58.03", listing: str = TWO) -> None:
        self.root, self.listing = root, listing
        self.written = YAML.replace("{version}", driver)
        self.calls: list[str] = []
        (root / "proc/driver/nvidia").mkdir(parents=True)
        if driver:
            (root / "proc/driver/nvidia/version").write_text(NVRM.format(driver))

    def write(self, text: str, place: str = "var/run/cdi/nvidia.yaml") -> None:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, argv: Sequence[str]) -> tuple[int, str, str]:
        self.calls.append(" ".join(argv))
        if argv[0] == "nvidia-smi":
            return 0, self.listing, ""
        if argv[:2] == ["systemctl", "restart"] and self.written:
            self.write(self.written)
        if argv[0] == "nvidia-ctk":
            if not self.written:
                return 1, "", "failed to create device CDI specs: driver not loaded"
            Path(argv[-1].partition("=")[2]).write_text(self.written)
        return 0, "", ""

    def ensure(self, how: str = "service", check_mode: bool = False) -> bool:
        return bool(cdi.ensure(how, check_mode, self.run, str(self.root))["changed"])


def test_yaml_and_json_are_read() -> None:
    found = cdi.parse_specification(YAML.replace("{version}", "580.65.06"), "a")
    assert found == cdi.Specification("a", ["580.65.06"], ["0", "1", "all"])
    found = cdi.parse_specification(JSON, "b")
    assert found == cdi.Specification("b", ["595.58.03"], ["0:1", "all"])
    assert cdi.parse_specification("kind: vendor.example/fpga\ndevices: []\n", "c") is None


def test_a_gpu_with_mig_instances_is_there_through_these() -> None:
    assert cdi.parse_gpus(TWO) == ["0", "1"]
    assert cdi.parse_gpus(MIG) == ["0:0", "0:1", "1"]
    assert cdi.parse_gpus("No devices were found\n") == []


def test_a_specification_of_this_driver_is_left_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write(machine.written)
    assert not machine.ensure()
    assert machine.calls == ["nvidia-smi -L"]


def test_without_a_driver_there_is_nothing_to_do(tmp_path: Path) -> None:
    machine = Machine(tmp_path, driver="")
    assert not machine.ensure()
    assert machine.calls == []


@pytest.mark.parametrize(
    ("there", "listing", "problem"),
    [
        ("", TWO, "there is no CDI specification of nvidia.com/gpu"),
        ("580.65.06", TWO, "names libraries of driver 580.65.06, loaded is 595.58.03"),
        ("595.58.03", MIG, "has the devices 0, 1, the host has 0:0, 0:1, 1"),
    ],
    ids=["missing", "of another driver", "of other devices"],
)
def test_what_is_wrong_is_said(tmp_path: Path, there: str, listing: str, problem: str) -> None:
    machine = Machine(tmp_path, listing=listing)
    if there:
        machine.write(YAML.replace("{version}", there))
    [said] = cdi.read(machine.run, str(tmp_path)).problems()
    assert problem in said


def test_the_service_writes_it_anew(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write(YAML.replace("{version}", "580.65.06"))
    assert machine.ensure(check_mode=True)
    assert not any("systemctl" in call for call in machine.calls)
    assert machine.ensure()
    assert "systemctl restart nvidia-cdi-refresh.service" in machine.calls
    assert not machine.ensure()


def test_before_1_18_we_write_it_and_leave_nothing_else(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write(YAML.replace("{version}", "580.65.06"), "etc/cdi/nvidia.yaml")
    assert machine.ensure("generate")
    folder = tmp_path / "etc/cdi"
    assert [path.name for path in folder.iterdir()] == ["nvidia.yaml"]
    assert "libcuda.so.595.58.03" in (folder / "nvidia.yaml").read_text()
    assert (folder / "nvidia.yaml").stat().st_mode & 0o777 == 0o644


def test_a_failed_generation_keeps_the_old_file_and_says_why(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    old = YAML.replace("{version}", "580.65.06")
    machine.write(old, "etc/cdi/nvidia.yaml")
    machine.written = ""
    with pytest.raises(HostFailedError, match="driver not loaded"):
        machine.ensure("generate")
    assert (tmp_path / "etc/cdi/nvidia.yaml").read_text() == old
    assert len(list((tmp_path / "etc/cdi").iterdir())) == 1


def test_a_service_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.written = ""
    with pytest.raises(HostFailedError, match="there is no CDI specification"):
        machine.ensure()
