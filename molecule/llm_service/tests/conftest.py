"""What the tests of the service ask of a host."""

from __future__ import annotations

import json
import time

import pytest

EXPECTED = {
    "bookworm": {"port": 8080, "user": "infra-llm", "receipts": "/var/lib/infra-llm/receipts"},
    "trixie": {"port": 8181, "user": "llm-node", "receipts": "/srv/receipts"},
}
LAUNCHER = "/opt/infra-llm/bin/launch.py"
GET = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())
"""


@pytest.fixture
def name(host):
    return host.backend.get_hostname()


@pytest.fixture
def expected(name):
    return EXPECTED[name]


@pytest.fixture
def server(host, expected):
    """Asks the server, and waits for it where it was started just now."""

    def get(path, seconds=60.0):
        url = f"http://127.0.0.1:{expected['port']}{path}"
        deadline = time.monotonic() + seconds
        while True:
            done = host.run("python3 -c %s %s", GET, url)
            if done.rc == 0:
                return json.loads(done.stdout)
            assert time.monotonic() < deadline, f"{url} does not answer: {done.stderr}"
            time.sleep(0.5)

    return get


@pytest.fixture
def pids(host):
    """The server's processes, not the shell that searches."""

    def find():
        found = host.run(f"pgrep --full '^[^ ]*python3[^ ]* -I {LAUNCHER}'").stdout.split()
        return sorted(int(pid) for pid in found)

    return find
