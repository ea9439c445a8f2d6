#!/usr/bin/env bash
# make test: every stage in order, the time of each, and a closing line. Needs root (or sudo) for
# the stages that make test hosts and provision this machine.
set -uo pipefail
cd "$(dirname "$0")/.."
declare -a names=() results=()
failed=0

stage() {
    local name=$1 started=$SECONDS
    shift
    printf '\n=== %s\n' "$name"
    if "$@"; then results+=("ok    $((SECONDS - started)) s"); else
        results+=("FAIL  $((SECONDS - started)) s")
        failed=$((failed + 1))
    fi
    names+=("$name")
}

finish() {
    printf '\n'
    for i in "${!names[@]}"; do printf '%-14s %s\n' "${names[$i]}" "${results[$i]}"; done
    printf '%d passed, %d failed\n' $((${#names[@]} - failed)) "$failed"
    [ "$failed" = 0 ]
    exit
}

# What the stages call and a bare machine may lack; test hosts bring their own packages.
packages() {
    local missing=() pair
    for pair in ssh:openssh-client ss:iproute2 curl:curl cc:gcc git:git gpg:gpg gpg-agent:gpg-agent; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} = 0 ] && return
    if [ "$(id -u)" != 0 ]; then
        printf 'install first: sudo apt-get install %s\n' "${missing[*]}" >&2
        return 1
    fi
    apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

stage packages packages
stage environment make .venv/.dev
[ "$failed" = 0 ] || finish
stage lint make lint
stage types make types
stage unit pytest tests/unit
stage accuracy make accuracy
stage oracle make oracle
stage embedded pytest tests/e2e/test_embedded.py
stage wheel pytest tests/e2e/test_wheel.py
stage fleet pytest tests/e2e/test_fleet.py
stage fresh pytest tests/e2e/test_fresh.py
stage faults pytest tests/e2e/test_faults.py
stage service pytest tests/e2e/test_service.py
stage access pytest tests/e2e/test_access.py
stage engines pytest tests/e2e/test_engines_switch.py tests/e2e/test_instances.py
stage machines pytest tests/e2e/test_probe_machines.py
stage driver pytest tests/e2e/test_driver.py tests/e2e/test_driver_distribution.py
stage cuda pytest tests/e2e/test_cuda_wheels.py
stage lab pytest tests/chaos/test_lab.py
stage molecule make molecule JOBS=2
finish
