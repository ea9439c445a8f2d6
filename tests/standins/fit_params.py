#!/usr/bin/env python3
"""Stand-in for llama-fit-params: says what its script wants, in the real program's form.

`install` puts it into a folder as a release has it. The script is JSON: for each device a row of
[name, model, context per 1,024 tokens, compute], MiB; `answers` takes one list of rows a call, the
last one again and again.
"""

import json
import sys
from pathlib import Path


def install(folder: Path, answers: list[list[list[object]]], fails: str = "") -> Path:
    """A release's folder that holds the stand-in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script.json").write_text(json.dumps({"answers": answers, "fails": fails}))
    tool = folder / "llama-fit-params"
    tool.write_text(Path(__file__).read_text())
    tool.chmod(0o755)
    return folder


def main() -> int:
    folder = Path(__file__).resolve().parent
    script = json.loads((folder / "script.json").read_text())
    calls = folder / "calls.json"
    seen = json.loads(calls.read_text()) if calls.exists() else []
    calls.write_text(json.dumps([*seen, sys.argv[1:]]))
    if script["fails"]:
        print(script["fails"], file=sys.stderr)
        return 1
    rows = script["answers"][min(len(seen), len(script["answers"]) - 1)]
    context = int(sys.argv[sys.argv.index("--ctx-size") + 1])
    for name, model, cache, compute in rows:
        print(f"{name} {int(model)} {int(cache * context / 1024)} {int(compute)} ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
