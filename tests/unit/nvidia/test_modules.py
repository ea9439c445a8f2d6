"""What is refused, built, loaded or left to a reboot, over states that a test makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.errors import HostFailedError, RefusedError
from infra_llm.target.nvidia import modules, secure_boot, state
from infra_llm.target.nvidia.state import KernelModule, State
from infra_llm.target.packages.command import Output

KEY = "/var/lib/dkms/mok.pub"
OLD, NEW = "6.1.0-40-amd64", "6.1.0-41-amd64"


def machine(**more: Any) -> State:
    """A machine with a card whose modules are built and loaded."""
    built = [KernelModule(k, "580.95.05", "open", dkms="installed", headers=True) for k in (OLD,)]
    given: dict[str, Any] = {"kernel": OLD, "next_kernel": OLD, "kernels": built, "cards": 1,
                             "loaded": "580.95.05", "loaded_flavour": "open",
                             "library": "580.95.05"}  # fmt: skip
    return State(**{**given, **more})


class Tools:
    """Records commands; answers by their first words."""

    def __init__(self, **answers: tuple[int, str]) -> None:
        self.answers = answers
        self.ran: list[str] = []

    def __call__(self, command: Sequence[str]) -> Output:
        text = " ".join(command)
        self.ran.append(text)
        for words, (status, said) in self.answers.items():
            if text.startswith(words.replace("_", " ")):
                return Output(status, said)
        return Output(0, "")


@pytest.fixture(autouse=True)
def nobody_uses_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "users_of_cards", list)
    forget = secure_boot.forget
    monkeypatch.setattr(secure_boot, "forget", lambda path="": bool(path) and forget(path))


def ensure(found: State, tools: Tools | None = None, check: bool = False, **plan: Any) -> Any:
    run = tools or Tools()
    return modules.ensure(plan, ["engine.service"], check, run, lambda: found)


def test_a_machine_in_order_is_left() -> None:
    tools = Tools()
    done = ensure(machine(), tools)
    assert (done.changed, done.reboot, tools.ran) == (False, [], [])


def test_a_container_says_what_it_can_not_do_and_fails_nothing() -> None:
    found = machine(container="docker", kernels=[], loaded="570.1", notes=["docker: ..."])
    tools = Tools()
    done = ensure(found, tools)
    assert not done.changed
    assert tools.ran == []
    assert "docker: ..." in done.notes
    assert any("the host machine's module is 570.1, the library here 580.95.05" in note
               for note in done.notes)  # fmt: skip


def test_a_mismatch_is_mended_by_loading_the_module_anew() -> None:
    tools = Tools(lsmod=(0, "Module Size Used\nnvidia_uvm 1 0\nnvidia 2 1 nvidia_uvm\n"))
    done = ensure(machine(loaded="580.82.07"), tools)
    assert done.changed
    assert done.reboot == []
    stop, load = (
        tools.ran.index("systemctl stop engine.service"),
        tools.ran.index("modprobe nvidia"),
    )
    assert stop < tools.ran.index("modprobe -r nvidia_uvm nvidia") < load
    assert tools.ran.index("systemctl start engine.service") > load


def test_the_other_flavour_of_the_same_version_is_loaded_anew() -> None:
    assert ensure(machine(loaded_flavour="proprietary")).changed


def test_a_module_in_use_needs_a_reboot_and_everything_runs_again() -> None:
    tools = Tools()
    tools.answers = {"modprobe -r": (1, "modprobe: FATAL: Module nvidia is in use.\n")}
    done = ensure(machine(loaded="580.82.07"), tools)
    assert done.reboot == [
        "the loaded module can't be taken out: modprobe: FATAL: Module nvidia is in use."
    ]
    assert not done.changed
    assert tools.ran[-1] == "systemctl start engine.service"


def test_who_uses_the_card_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "users_of_cards", lambda: [(812, "python3")])
    done = ensure(machine(loaded="580.82.07"))
    assert done.reboot == ["the loaded module can't be taken out: python3 (pid 812)"]


def test_check_mode_says_what_it_would_load_and_runs_nothing() -> None:
    tools = Tools()
    done = ensure(machine(loaded="580.82.07"), tools, check=True)
    assert done.changed
    assert tools.ran == []
    assert "would load module 580.95.05 open in place of 580.82.07" in done.notes


def test_nouveau_needs_a_reboot() -> None:
    done = ensure(machine(loaded="", nouveau=True))
    assert done.reboot == ["nouveau drives the card until the next boot"]


def test_without_a_card_nothing_is_loaded() -> None:
    done = ensure(machine(cards=0, loaded=""))
    assert not done.changed
    assert "no NVIDIA card on the PCI bus: no module is loaded" in done.notes


def test_a_kernel_that_an_upgrade_took_away_needs_a_reboot() -> None:
    there = [KernelModule(NEW, "580.95.05", "open", dkms="installed", headers=True)]
    done = ensure(machine(kernels=there, next_kernel=NEW))
    assert done.reboot == [f"the running kernel {OLD} is no longer installed"]


def test_headers_that_are_missing_are_named_with_the_package() -> None:
    kernels = [*machine().kernels, KernelModule(NEW)]
    with pytest.raises(HostFailedError, match=f"install linux-headers-{NEW}"):
        ensure(machine(kernels=kernels, next_kernel=NEW))


def test_a_build_that_fails_shows_its_end() -> None:
    kernels = [*machine().kernels, KernelModule(NEW, headers=True)]
    tools = Tools(dkms_autoinstall=(10, "cc: error: unrecognized option"))
    with pytest.raises(HostFailedError, match="cc: error: unrecognized option"):
        ensure(machine(kernels=kernels, next_kernel=NEW), tools)


def test_a_kernel_that_dkms_skips_is_told_in_its_words() -> None:
    kernels = [*machine().kernels, KernelModule(NEW, headers=True)]
    tools = Tools(dkms_autoinstall=(0, f"Autoinstall on {NEW} was skipped for module(s) nvidia."))
    with pytest.raises(HostFailedError, match=r"was skipped for module\(s\) nvidia") as caught:
        ensure(machine(kernels=kernels, next_kernel=NEW), tools)
    assert "real-time" in (caught.value.hint or "")


def test_a_module_that_is_missing_is_built() -> None:
    before = machine(kernels=[*machine().kernels, KernelModule(NEW, headers=True)], next_kernel=NEW)
    after = machine(kernels=[*machine().kernels, KernelModule(NEW, "580.95.05", "open")],
                    next_kernel=NEW)  # fmt: skip
    looks = iter([before, after, after])
    tools = Tools()
    done = modules.ensure({}, [], False, tools, lambda: next(looks))
    assert done.changed
    assert tools.ran == [f"dkms autoinstall -k {NEW}"]
    assert f"built the module for kernel {NEW}" in done.notes


def test_a_key_that_waits_for_its_enrolment_needs_a_reboot() -> None:
    found = machine(loaded="", signing_key=KEY)
    waiting = Tools(mokutil=(0, f"{KEY} is already in the enrollment request"))
    done = ensure(found, waiting, mok=True)
    assert done.reboot == ["the module's signing key waits for its enrolment at the next boot"]
    assert not done.changed
    assert set(waiting.ran) == {f"mokutil --test-key {KEY}"}
    assert any(f"sudo cat {secure_boot.PASSWORD_FILE}" in note for note in done.notes)
    enrolled = Tools(mokutil=(0, f"{KEY} is already enrolled"))
    ensure(found, enrolled, mok=True)
    assert "modprobe nvidia" in enrolled.ran
    with pytest.raises(HostFailedError, match="DKMS made no key"):
        ensure(machine(loaded=""), Tools(), mok=True)


def test_the_enrolment_is_asked_for_with_a_password_that_root_alone_reads(tmp_path: Path) -> None:
    place = tmp_path / "infra-llm_host/mok-password"
    asked = Tools(mokutil=(0, f"{KEY} is not enrolled"), openssl=(0, "$6$salt$hash\n"))
    assert secure_boot.request(KEY, asked, str(place))
    assert len(place.read_text().strip()) == 8
    assert place.stat().st_mode & 0o777 == 0o600
    assert asked.ran[1] == f"openssl passwd -6 -in {place}"
    assert asked.ran[2].startswith(f"mokutil --import {KEY} --hash-file ")


def test_a_machine_that_takes_no_key_says_so(tmp_path: Path) -> None:
    tools = Tools(mokutil=(1, "EFI variables are not supported on this system"))
    with pytest.raises(HostFailedError, match="EFI variables are not supported"):
        secure_boot.request(KEY, tools, str(tmp_path / "password"))


def test_check_mode_asks_for_no_enrolment() -> None:
    tools = Tools(mokutil=(1, f"{KEY} is not enrolled"))
    done = ensure(machine(loaded="", signing_key=KEY), tools, check=True, mok=True)
    assert set(tools.ran) == {f"mokutil --test-key {KEY}"}
    assert any(note.startswith("would ask for the enrolment") for note in done.notes)


def test_ubuntus_key_comes_before_the_one_of_dkms(tmp_path: Path) -> None:
    for name in ("var/lib/dkms/mok.pub", "var/lib/shim-signed/mok/MOK.der"):
        assert state.read_state(str(tmp_path)).signing_key != "/" + name
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
        assert state.read_state(str(tmp_path)).signing_key == "/" + name


@pytest.mark.parametrize(
    ("found", "plan", "words"),
    [
        ({"runfile": ["/usr/bin/nvidia-uninstall"], "runfile_version": "550.54.14"}, {},
         r"\.run installer is here \(version 550.54.14\)"),
        ({"secure_boot": True}, {"packages": ["nvidia-open"]}, "infra_llm_secure_boot: mok"),
    ],
)  # fmt: skip
def test_what_must_not_be_touched_is_refused(
    found: dict[str, Any], plan: dict[str, Any], words: str
) -> None:
    with pytest.raises(RefusedError, match=words):
        modules.refuse(machine(**found), plan, remove_runfile=False)


@pytest.mark.parametrize(
    ("found", "plan"),
    [
        ({}, {}),
        ({"secure_boot": True}, {"mok": True}),
        ({"secure_boot": True}, {"packages": ["linux-modules-nvidia-580-generic"]}),
        ({"secure_boot": True, "container": "docker"}, {}),
        ({"runfile": ["/usr/bin/nvidia-uninstall"]}, {}),
    ],
)
def test_what_may_be_touched_is_not(found: dict[str, Any], plan: dict[str, Any]) -> None:
    modules.refuse(machine(**found), plan, remove_runfile=True)


def test_fabric_manager_must_be_of_the_drivers_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "library_version", lambda _root: "580.95.05")
    same = Tools(nv_fabricmanager=(0, ""))
    same.answers = {"nv-fabricmanager": (0, "Fabric Manager version is : 580.95.05")}
    modules.check_fabric_manager(same, str(tmp_path))
    same.answers = {"nv-fabricmanager": (0, "Fabric Manager version is : 580.82.07")}
    with pytest.raises(HostFailedError, match=r"Fabric Manager is 580.82.07, the driver 580.95.05"):
        modules.check_fabric_manager(same, str(tmp_path))


def test_versions_of_libraries_come_from_their_file(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    assert state.library_version(str(tmp_path)) == ""
    (folder / "libnvidia-ml.so.580.95.05").touch()
    (folder / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.95.05")
    assert state.library_version(str(tmp_path)) == "580.95.05"


def test_kernels_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("6.1.0-9-amd64", "6.1.0-41-amd64", "6.1.0-40-amd64", "6.12.0-rc1-amd64"):
        (tmp_path / "lib/modules" / name / "kernel").mkdir(parents=True)
    headers = tmp_path / "lib/modules/6.1.0-9-amd64/build"
    headers.mkdir()
    (headers / "Makefile").touch()
    found = state.read_state(str(tmp_path))
    assert [m.kernel for m in found.kernels][-1] == found.next_kernel == "6.12.0-rc1-amd64"
    assert [m.kernel for m in found.kernels][:2] == ["6.1.0-9-amd64", "6.1.0-40-amd64"]
    assert [m.headers for m in found.kernels] == [True, False, False, False]


def test_headers_without_their_kernel_are_not_what_boots_next(tmp_path: Path) -> None:
    (tmp_path / "lib/modules/6.1.0-40-amd64/kernel").mkdir(parents=True)
    (tmp_path / "lib/modules/6.1.0-41-amd64/build").mkdir(parents=True)
    assert state.read_state(str(tmp_path)).next_kernel == "6.1.0-40-amd64"


DEBIANS_MODPROBE = """\
install nvidia modprobe -i nvidia-current-open $CMDLINE_OPTS
install nvidia-uvm modprobe nvidia ; modprobe -i nvidia-current-open-uvm $CMDLINE_OPTS
"""
MODINFO = """#!/bin/sh
[ "$3" = {name} ] || {{ echo "modinfo: ERROR: Module $3 not found."; exit 1; }}
printf 'version:        550.163.01\\nlicense:        Dual MIT/GPL\\n'
"""


@pytest.mark.parametrize("name", ["nvidia", "nvidia-current-open"])
def test_a_module_that_the_distribution_renamed_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "lib/modules/6.12.117+deb13-amd64/kernel").mkdir(parents=True)
    tool = tmp_path / "usr/sbin/modinfo"
    tool.parent.mkdir(parents=True)
    tool.write_text(MODINFO.format(name=name))
    tool.chmod(0o755)
    folder = tmp_path / "etc/modprobe.d"
    folder.mkdir(parents=True)
    if name != "nvidia":
        (folder / "nvidia.conf").write_text(DEBIANS_MODPROBE)
    module = state.read_state(str(tmp_path)).kernels[0]
    assert (module.version, module.flavour) == ("550.163.01", "open")


def test_a_module_that_does_not_load_is_told_with_the_kernels_words() -> None:
    tools = Tools(
        dmesg=(0, "[    1.0] e1000: up\n[   97.2] NVRM: No NVIDIA GPU found.\n"),
    )
    tools.answers["modprobe nvidia"] = (
        1,
        "modprobe: ERROR: could not insert 'nvidia_current_open': No such device\n"
        "modprobe: ERROR: could not insert 'nvidia': Invalid argument\n",
    )
    with pytest.raises(HostFailedError) as caught:
        ensure(machine(loaded=""), tools)
    text = str(caught.value)
    assert "580.95.05 open does not load: No such device\nNVRM: No NVIDIA GPU found." in text
    assert "e1000" not in text and "Invalid argument" not in text
    assert "infra-llm stack" in (caught.value.hint or "")


def test_processes_with_a_card_open_are_found(tmp_path: Path) -> None:
    for pid, target in (("1", "/dev/null"), ("812", "/dev/nvidia0"), ("9", "/dev/nvidia-nvlink")):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "fd/3").symlink_to(target)
        (tmp_path / pid / "comm").write_text(f"name{pid}\n")
    assert state.users_of_cards(str(tmp_path)) == [(812, "name812")]


def test_the_password_goes_with_the_request(tmp_path: Path) -> None:
    place = tmp_path / "mok-password"
    place.touch()
    assert secure_boot.forget(str(place))
    assert not secure_boot.forget(str(place))
