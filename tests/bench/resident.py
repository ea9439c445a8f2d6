"""Predicted resident memory against a real server's: python -m tests.bench.resident

Each server is started as the service is and verified as `provision` does (a question, then a
prompt of about 350 tokens), then its process tree's RSS is read.
"""

from __future__ import annotations

import sys

from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.readers.gguf_file import read_gguf
from infra_llm.target.endpoint import Request, verify
from infra_llm.target.process_memory import tree_memory
from tests.bench.servers import models, serving, this_machine

CONTEXTS = (2048, 4096, 8192)
BOUND = 0.03


def main() -> int:
    hardware, missed = this_machine(), 0
    print(
        f"{'model':14} {'context':>8} {'predicted MiB':>14} {'measured':>9} {'error':>7}  goal 3 %"
    )
    for name, path in models().items():
        profile = read_gguf(path)
        for context in CONTEXTS:
            plan = plan_launch(hardware, profile, FitWishes(context=context))
            with serving(path, plan.flags) as server:
                verify(Request(url=server.url, expected="", context_length=context))
                found = tree_memory(server.pid)
            assert found is not None
            predicted, measured = plan.host.total_mib, found["rss_mib"]
            error = predicted / measured - 1
            inside = plan.host.low_mib <= measured <= plan.host.high_mib
            verdict = "ok" if abs(error) <= BOUND else "MISSED"
            missed += verdict != "ok"
            print(
                f"{name:14} {context:8} {predicted:14.1f} {measured:9.1f} {error:7.1%}  {verdict}"
                f"{'' if inside else ', outside of its bounds'}",
                flush=True,
            )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
