"""The front: the only door, opened by the key alone, over TLS where wished, and shut in itself."""

from __future__ import annotations

import json
import os

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

EXPECTED = {
    "bookworm": {"url": "https://127.0.0.1:8080", "front": "0.0.0.0:8080",
                 "engine": "127.0.0.1:18080", "receipts": "/var/lib/infra-llm/receipts"},
    "trixie": {"url": "http://127.0.0.1:8181", "front": "127.0.0.1:8181",
               "engine": "127.0.0.1:9191", "receipts": "/srv/receipts"},
}  # fmt: skip
KEY, CA = "/etc/infra-llm/api-key", "/etc/infra-llm/tls/ca.crt"
ASK = """
import json, os, ssl, sys, urllib.error, urllib.request
url, key, ca = sys.argv[1:4]
body = json.dumps({"prompt": "1+1=", "max_tokens": 4, "temperature": 0}).encode()
request = urllib.request.Request(url, body if "/v1/" in url else None)
request.add_header("Content-Type", "application/json")
if key:
    request.add_header("Authorization", "Bearer " + open(key).readline().strip())
trust = ssl.create_default_context(cafile=ca if os.path.exists(ca) else None)
try:
    answer = urllib.request.urlopen(request, timeout=60, context=trust)
    print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
"""


@pytest.fixture
def name(host):
    return host.backend.get_hostname()


@pytest.fixture
def expected(name):
    return EXPECTED[name]


@pytest.fixture
def ask(host, expected):
    """(status, body) of a request from the host itself; `key` is the file that holds one."""

    def get(path, key="", ca=CA):
        said = host.check_output("python3 -c %s %s %s %s", ASK, expected["url"] + path, key, ca)
        return json.loads(said)

    return get


def test_the_key_opens_it(ask):
    status, body = ask("/v1/completions", KEY)
    assert status == 200, body
    assert json.loads(body)["usage"]["completion_tokens"] >= 1


def test_nothing_opens_without_it(host, ask):
    assert ask("/v1/completions")[0] == 401
    host.check_output("printf not-the-key-of-this-host > /root/other-key")
    assert ask("/v1/completions", "/root/other-key")[0] == 401
    # Whether it lives may be asked by everyone who reaches it.
    assert ask("/health")[0] == 200


def test_the_certificate_is_the_sites(host, name, expected):
    command = ("python3 -c %s %s %s %s", ASK, expected["url"] + "/health", "", "/nonexistent")
    if name == "bookworm":
        strange = host.run(*command)
        assert strange.rc != 0
        assert "CERTIFICATE_VERIFY_FAILED" in strange.stderr
    else:
        assert host.run(*command).rc == 0
        assert not host.file("/etc/infra-llm/tls").exists


def test_the_engine_is_reached_through_it_only(host, expected):
    listening = host.check_output("ss --no-header --tcp --listening --numeric").splitlines()
    ports = {line.split()[3] for line in listening}
    assert {expected["front"], expected["engine"]} <= ports
    open_ports = {port for port in ports if not port.startswith(("127.", "[::1]"))}
    wanted = {expected["front"]} if expected["front"].startswith("0.0.0.0") else set()
    assert {port for port in open_ports if not port.endswith(":22")} == wanted


def test_only_the_named_network_gets_in(host, name):
    unit = host.service("infra-llm-firewall")
    if name == "bookworm":
        assert unit.is_running
        assert unit.is_enabled
        # Debian's own rules begin with "flush ruleset": whenever they are loaded, ours comes after.
        for before in ("true", "systemctl restart nftables", "systemctl reload nftables"):
            host.check_output(f"{before}; sleep 2")
            table = host.check_output("nft list table inet infra_llm")
            assert "ip saddr 10.231.0.0/24 accept" in table, before
    else:
        assert not host.file("/etc/systemd/system/infra-llm-firewall.service").exists


def test_secrets_are_roots_alone_and_nowhere_else(host, name):
    files = [KEY] + (["/etc/infra-llm/tls/tls.key"] if name == "bookworm" else [])
    for path in files:
        file = host.file(path)
        assert (file.user, file.mode) == ("root", 0o600)
    key = host.file(KEY).content_string.strip()
    assert len(key) >= 16
    assert (key == "a-key-for-this-scenario-only") is (name == "trixie")
    search = (
        "journalctl --no-pager >/root/log; cat /proc/[0-9]*/cmdline >/root/lines 2>/dev/null; "
        f"grep --recursive --files-with-matches --fixed-strings --file={KEY} /root/log /root/lines "
        "/etc/systemd /var/lib/infra-llm /var/log /opt/infra-llm"
    )
    found = host.run(search)
    assert (found.rc, found.stdout) == (1, "")


def test_its_own_user_has_no_power_and_it_is_shut_in(host, ask):
    assert ask("/health")[0] == 200
    pid = host.check_output("systemctl show infra-llm-front --property MainPID --value")
    status = host.file(f"/proc/{pid}/status").content_string
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    for unit in ("infra-llm-front.service", "infra-llm.service"):
        said = host.check_output(f"systemd-analyze security --no-pager {unit}").splitlines()[-1]
        assert float(said.split(": ")[1].split()[0]) <= 2.0, unit


def test_it_comes_back_when_it_is_killed(host, ask):
    host.check_output("systemctl kill --signal=KILL infra-llm-front")
    host.check_output("sleep 4")
    assert host.service("infra-llm-front").is_running
    assert ask("/v1/completions", KEY)[0] == 200


def test_the_receipt_describes_files_and_units(host, name, expected):
    receipt = json.loads(host.file(f"{expected['receipts']}/llm_access.json").content_string)
    units = {unit["name"] for unit in receipt["units"]}
    files = {file["path"] for file in receipt["files"]}
    assert {KEY, "/etc/infra-llm/front.json", "/opt/infra-llm/bin/front.py"} <= files
    firewall = {"infra-llm-firewall"} if name == "bookworm" else set()
    assert units == {"infra-llm-front"} | firewall
