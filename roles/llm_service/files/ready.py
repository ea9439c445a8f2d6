"""Wait until the engine answers a completion: only then is the unit started.

    MAINPID=123 python3 ready.py /etc/infra-llm/launch.json

systemd runs it as ExecStartPost=. It ends with 0 at the first answer; with 1 when the engine died
or was silent for as long as the launch file's `ready` allows. Standard library, Python 3.8.
"""

import http.client
import json
import os
import ssl
import sys
import time

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not bound
POLL = 0.2
DEFAULT = {"health": "/health", "answer": True, "seconds": 600}
"""For launch files of before there was such an entry."""


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        launch = json.load(file)
    launch.setdefault("ready", DEFAULT)
    wait(launch, int(os.environ.get("MAINPID") or 0))


def wait(launch, pid):
    """Until it answers; ends the process with what is wrong instead."""
    seconds = launch["ready"]["seconds"]
    deadline = time.monotonic() + seconds
    last = "no answer"
    while time.monotonic() < deadline:
        if pid and not alive(pid):
            sys.exit("infra-llm: the engine ended before it answered")
        try:
            last = problem(launch, max(1.0, deadline - time.monotonic()))
        except (OSError, http.client.HTTPException) as error:
            last = str(error) or type(error).__name__
        if not last:
            return
        time.sleep(POLL)
    sys.exit("infra-llm: the engine did not answer within %d s (%s)" % (seconds, last))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def problem(launch, seconds):
    """Why it is not ready, "" once it is. A model that only embeds answers with an embedding."""
    status, _ = ask(launch, "GET", launch["ready"]["health"], None, 5.0)
    if status != 200:
        return "HTTP %d from %s" % (status, launch["ready"]["health"])
    if not launch["ready"]["answer"]:
        return ""
    if launch["ready"].get("embeds"):
        body = {"model": launch["alias"], "input": "1+1="}
        status, said = ask(launch, "POST", "/v1/embeddings", body, seconds)
    else:
        body = {"model": launch["alias"], "prompt": "1+1=", "max_tokens": 1}
        status, said = ask(launch, "POST", "/v1/completions", body, seconds)
    return "" if status == 200 else "HTTP %d: %s" % (status, said)


def ask(launch, method, path, body, seconds):
    """(status, the start of the answer)."""
    host = EVERYWHERE.get(launch["host"], launch["host"])
    if launch.get("tls"):
        # Its own process on this machine: whose certificate it is, verification looks at.
        context = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(
            host, launch["port"], timeout=seconds, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, launch["port"], timeout=seconds)
    headers = {"Content-Type": "application/json"}
    if launch.get("api_key_file"):
        with open(launch["api_key_file"], encoding="utf-8") as file:
            headers["Authorization"] = "Bearer " + file.readline().strip()
    try:
        data = None if body is None else json.dumps(body).encode("utf-8")
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        return response.status, response.read(300).decode("utf-8", "replace").strip()
    finally:
        connection.close()


if __name__ == "__main__":
    main()
