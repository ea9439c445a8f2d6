"""A stand-in for supervisord: its XML-RPC on a unix socket, with processes that a test sets."""

from __future__ import annotations

import os
import socketserver
import threading
from typing import Any
from xmlrpc.client import Fault
from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

# Faults of supervisor/xmlrpc.py, states of supervisor/states.py (4.3.0).
BAD_NAME, NOT_RUNNING, STILL_RUNNING, CANT_REREAD = 10, 70, 91, 92
RUNNING_STATES = ("RUNNING", "BACKOFF", "STARTING")
STOPPED_STATES = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")


class _Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/RPC2", "/")
    disable_nagle_algorithm = False
    server: Supervisord

    def do_POST(self) -> None:  # noqa: N802 - the name that the library calls
        if self.server.http_status != 200:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(self.server.http_status)
            return
        super().do_POST()

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
        self.calls: list[str] = []
        """What was changed, in order."""
        self.broken = ""
        """Why the configuration can't be read."""
        self.http_status = 200
        self._to_come: list[str] = []
        self.register_function(lambda: self.processes, "supervisor.getAllProcessInfo")
        self.register_function(
            lambda: [{"name": p["name"], "autostart": True} for p in self.processes],
            "supervisor.getAllConfigInfo",
        )
        self.register_function(os.getpid, "supervisor.getPID")
        self.register_function(self._reload, "supervisor.reloadConfig")
        self.register_function(self._stop, "supervisor.stopProcess")
        self.register_function(self._remove, "supervisor.removeProcessGroup")
        self.register_function(self._add, "supervisor.addProcessGroup")
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

    def goes_through(self, name: str, states: list[str]) -> None:
        """Its states from now on, one further at each call that wants it stopped or removed."""
        self.processes = []
        if states:
            self.program(name, states[0])
        self._to_come = states[1:]

    def _state(self, name: str) -> str:
        for process in self.processes:
            if process["name"] == name:
                return str(process["statename"])
        raise Fault(BAD_NAME, "BAD_NAME: " + name)

    def _go_on(self, name: str) -> None:
        if self._to_come:
            self.program(name, self._to_come.pop(0))

    def _reload(self) -> list[list[list[str]]]:
        self.calls.append("reloadConfig")
        if self.broken:
            raise Fault(CANT_REREAD, self.broken)
        return [[[], [], []]]

    def _stop(self, name: str, wait: bool = True) -> bool:
        self.calls.append("stopProcess")
        state = self._state(name)
        assert not wait, "this one would answer after the program's end, however long that takes"
        if not self._to_come and state in RUNNING_STATES:
            self.program(name, "STOPPED")
        self._go_on(name)
        if state not in RUNNING_STATES:
            raise Fault(NOT_RUNNING, "NOT_RUNNING: " + name)
        return True

    def _remove(self, name: str) -> bool:
        self.calls.append("removeProcessGroup")
        state = self._state(name)
        self._go_on(name)
        if state not in STOPPED_STATES:
            raise Fault(STILL_RUNNING, "STILL_RUNNING: " + name)
        self.processes, self._to_come = [], []
        return True

    def _add(self, name: str) -> bool:
        self.calls.append("addProcessGroup")
        self.program(name)
        return True
