#!/usr/bin/env bash
# make bench: every table with the command that makes it. Times vary with the machine; ratios of one
# run are what to compare.
set -euo pipefail
cd "$(dirname "$0")/../.."
table() { printf '\n$ %s\n' "$*"; "$@"; }
python3 -m tests.lab up --name bench --inventory .lab/bench.ini --hosts node1,node2
trap 'python3 -m tests.lab down --name bench' EXIT
table python tests/bench/provision_times.py inventories/local.ini .lab/bench.ini
missed=0
for bench in planner probe_times resident sweep build_once; do
    table python -m "tests.bench.$bench" || missed=1
done
table python -m tests.accuracy.encoders || missed=1
exit "$missed"
