"""The hosts are real machines: systemd, their own address, packages, sudo, checked host keys."""

from __future__ import annotations

import os

import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")


def test_systemd_is_pid_1_and_nothing_failed(host):
    assert host.check_output("cat /proc/1/comm") == "systemd"
    assert host.check_output("systemctl is-system-running") == "running"


def test_the_suite_is_the_one_of_the_platform(host):
    assert host.system_info.codename == host.backend.get_hostname()


def test_converge_wrote_as_root(host):
    file = host.file("/etc/selftest")
    assert (file.user, file.mode, file.content_string) == ("root", 0o640, "written by molecule\n")


def test_a_package_came_from_the_index(host):
    assert host.package("tree").is_installed


def test_login_is_an_ordinary_user(host):
    with host.sudo("ops"):
        assert host.check_output("id -un") == "ops"
    assert host.user("ops").shell == "/bin/bash"


def test_host_key_checking_is_on(host):
    arguments = host.backend.ansible_runner.get_variables(host.backend.host)
    options = arguments["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in options
    assert "/dev/null" not in options.split("GlobalKnownHostsFile")[0]
