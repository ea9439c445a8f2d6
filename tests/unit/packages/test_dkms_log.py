"""The compiler's own words out of a log of DKMS, recorded on Debian 13 with a kernel too new."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target.packages import dpkg
from infra_llm.target.packages.apt import run_failure
from infra_llm.target.packages.command import Output
from infra_llm.target.packages.dkms_log import build_errors

# nvidia-open-kernel-dkms 550.163.01-2 against 6.12.117+deb13-cloud-amd64; the command is cut.
LOG = """\
DKMS make.log for nvidia-current-open-550.163.01 for kernel 6.12.117 (x86_64)
 CONFTEST: dma_fence_set_error
  x86_64-linux-gnu-gcc-14 -Werror=date-time -Wno-error {long} -c -o nv-pci.o nv-pci.c
/build/nvidia/nv-pci.c: In function 'nv_resize_pcie_bars':
/build/nvidia/nv-pci.c:237:9: error: too few arguments to function 'pci_resize_resource'
  237 |     r = pci_resize_resource(pci_dev, NV_GPU_BAR1, requested_size);
make[4]: *** [Makefile.build:234: nv-pci.o] Error 1
make[2]: Leaving directory '/usr/src/linux-headers-6.12.117+deb13-cloud-amd64'
make: *** [Makefile:140: modules] Error 2
"""
SAID = """\
Building module(s).......(bad exit status: 2)
Error! Bad return status for module build on kernel: 6.12.117+deb13-cloud-amd64 (x86_64)
Consult {log} for more information.
dpkg: error processing package nvidia-open-kernel-dkms (--configure):
 installed nvidia-open-kernel-dkms package post-installation script subprocess returned error exit status 10
"""  # noqa: E501
REASON = "nv-pci.c:237:9: error: too few arguments to function 'pci_resize_resource'"


@pytest.fixture
def said(tmp_path: Path) -> str:
    log = tmp_path / "make.log"
    log.write_text(LOG.format(long="-DX " * 1000))
    return SAID.format(log=log)


def test_the_first_error_is_found_among_long_commands(said: str) -> None:
    (only,) = build_errors(said)
    assert only.endswith(REASON)


def test_a_log_without_an_error_is_shown_at_its_end_and_cut(tmp_path: Path) -> None:
    log = tmp_path / "make.log"
    log.write_text("one\n" * 9 + "killed " * 90)
    found = build_errors(f"Consult {log} for more information.")
    assert [len(line) for line in found] == [3, 3, 3, 240]


def test_nothing_is_made_up_where_dkms_built_nothing(tmp_path: Path) -> None:
    assert build_errors("Error! Your kernel headers can't be found.") == []
    gone = build_errors(f"Consult {tmp_path}/make.log for more information.")
    assert gone == [f"{tmp_path}/make.log: No such file or directory"]


def test_apt_and_dpkg_tell_it_too(said: str) -> None:
    failure = run_failure(Output(100, said))
    assert REASON in str(failure)
    assert "do not compile for this kernel" in (failure.hint or "")
    with pytest.raises(HostFailedError, match="too few arguments"):
        dpkg.repair(lambda _: Output(1, said))
