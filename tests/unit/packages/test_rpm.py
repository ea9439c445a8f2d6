"""What rpm says, as a role reads it; captured from rpm 4.18 and 4.20."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target.packages import rpm
from infra_llm.target.packages.command import Output
from infra_llm.target.packages.family import host_family, package_versions

ALL = """\
bash\t5.1.8-9.el9\t5.1.8-9.el9
nvidia-driver\t3:580.95.05-1.el9\t580.95.05-1.el9
kernel-core\t5.14.0-570.el9\t5.14.0-570.el9
kernel-core\t5.14.0-503.el9\t5.14.0-503.el9
zero\t0:1.0-1\t1.0-1
none\t(none):1.0-1\t1.0-1
gpg-pubkey\tf796ecb0-5e1f8bd1\tf796ecb0-5e1f8bd1
"""


def test_packages_kernels_and_keys() -> None:
    assert rpm.parse(ALL) == {
        "bash": "5.1.8-9.el9",
        "nvidia-driver": "3:580.95.05-1.el9",
        "kernel-core": "5.14.0-503.el9,5.14.0-570.el9",
        "zero": "1.0-1",
        "none": "1.0-1",
        "gpg-pubkey-f796ecb0-5e1f8bd1": "f796ecb0-5e1f8bd1",
    }


def test_streams_that_are_enabled(tmp_path: Path) -> None:
    text = "[{0}]\nname={0}\nstream={1}\nprofiles=\nstate={2}\n"
    (tmp_path / "nvidia-driver.module").write_text(
        text.format("nvidia-driver", "580-open", "enabled")
    )
    (tmp_path / "php.module").write_text(text.format("php", "8.2", "disabled"))
    (tmp_path / "perl.module").write_text(text.format("perl", "", ""))
    assert rpm.streams(str(tmp_path)) == {"module:nvidia-driver": "580-open"}
    assert rpm.streams(str(tmp_path / "nowhere")) == {}


def test_receipts_ask_rpm_on_the_redhat_family() -> None:
    def run(command: Sequence[str]) -> tuple[int, str, str]:
        assert command[:3] == ["rpm", "--query", "--queryformat"]
        assert command[-2:] == ["bash", "nothing"]
        return 1, "bash\t5.1.8-9.el9\t5.1.8-9.el9\npackage nothing is not installed\n", ""

    assert package_versions(["nothing", "bash"], run, "redhat") == {"bash": "5.1.8-9.el9"}


def test_no_rpm_is_said() -> None:
    with pytest.raises(HostFailedError, match="can't ask for packages: No such file"):
        package_versions(["a"], lambda _: (127, "", "No such file or directory: 'rpm'"), "redhat")


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "redhat"),
        ('ID="circle"\nID_LIKE="rhel centos fedora"\n', "redhat"),
        ("ID=fedora\n", "redhat"),
        ("ID=ubuntu\nID_LIKE=debian\n", "debian"),
        ("ID=debian\n", "debian"),
    ],
)
def test_family_by_os_release(tmp_path: Path, text: str, family: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(text)
    assert host_family(str(tmp_path)) == family


def test_only_the_keys_that_are_new_are_ours() -> None:
    known = ["old-1"]

    def run(command: Sequence[str]) -> Output:
        if command[0] == "rpmkeys":
            assert command[1:] == ["--import", "/key"]
            known.append("f796ecb0-5e1f8bd1")
            return Output(0, "")
        return Output(0, "".join(f"gpg-pubkey\t{key}\t{key}\n" for key in known))

    assert rpm.import_key("/key", run) == ["gpg-pubkey-f796ecb0-5e1f8bd1"]
    assert rpm.import_key("/key", run) == []
