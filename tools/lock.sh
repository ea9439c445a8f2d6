#!/usr/bin/env bash
# Write the lock files again from pyproject.toml: hashes, no index addresses. Needs uv on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header "$@"; }
compile pyproject.toml requirements/build.in -o requirements/run.lock
compile pyproject.toml requirements/build.in --group dev -c requirements/run.lock -o requirements/dev.lock
