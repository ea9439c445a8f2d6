"""Who listens on a port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from infra_llm.target.sockets import is_descendant, listener


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_the_process_is_named(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as server:
        server.bind((address, 0))
        port = server.getsockname()[1]
        assert listener(port) is None, "bound is not listening"
        server.listen()
        found = listener(port)
    assert found is not None
    assert found.pid == os.getpid()
    assert "python" in found.name or "pytest" in found.name
    assert listener(port) is None


def test_children_descend_from_their_parents_only() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert is_descendant(child.pid, os.getpid())
        assert is_descendant(child.pid, child.pid)
        assert not is_descendant(os.getpid(), child.pid)
        assert not is_descendant(2**30, os.getpid())
    finally:
        child.communicate(b"\n", timeout=10)
