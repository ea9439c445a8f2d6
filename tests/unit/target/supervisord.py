"""A stand-in for supervisord: its XML-RPC on a unix socket, with processes that a test sets."""

from __future__ import annotations

import socketserver
import threading
from typing import Any
from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler


class _Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/RPC2", "/")
    disable_nagle_algorithm = False

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *args: object) -> None:
        pass


class Supervisord(socketserver.ThreadingUnixStreamServer, SimpleXMLRPCDispatcher):
    daemon_threads = True
    logRequests = False  # noqa: N815 - the name that the library reads

    def __init__(self, path: str) -> None:
        SimpleXMLRPCDispatcher.__init__(self, allow_none=True)
        socketserver.ThreadingUnixStreamServer.__init__(self, path, _Handler)
        self.processes: list[dict[str, Any]] = []
        self.register_function(lambda: self.processes, "supervisor.getAllProcessInfo")
        self.register_function(
            lambda: [{"name": p["name"], "autostart": True} for p in self.processes],
            "supervisor.getAllConfigInfo",
        )
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def program(self, name: str, state: str = "RUNNING", pid: int = 42, log: str = "") -> None:
        self.processes = [p for p in self.processes if p["name"] != name]
        self.processes.append(
            {
                "name": name,
                "group": name,
                "statename": state,
                "pid": pid if state == "RUNNING" else 0,
                "spawnerr": "Exited too quickly" if state == "FATAL" else "",
                "stdout_logfile": log,
                "logfile": log,
            }
        )
