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

# What runs on hosts of its own waits more than it computes: lanes run side by side, each line of
# output under its lane's name.
side_by_side() {
    local folder lane
    folder=$(mktemp -d)
    for lane in "$@"; do
        {
            names=() results=() failed=0
            "$lane"
            for i in "${!names[@]}"; do
                printf '%s|%s\n' "${names[$i]}" "${results[$i]}"
            done >"$folder/$lane"
        } 2>&1 | sed -u "s/^/${lane%_lane}: /" &
    done
    wait
    for lane in "$@"; do
        [ -s "$folder/$lane" ] || printf '%s|FAIL  did not end\n' "$lane" >"$folder/$lane"
        while IFS='|' read -r name result; do
            names+=("$name") results+=("$result")
            [[ $result = ok* ]] || failed=$((failed + 1))
        done <"$folder/$lane"
    done
    rm -r "$folder"
}

here_lane() {
    stage accuracy make accuracy
    # It compiles; the hosts of the other lanes boot meanwhile and must not wait for that.
    stage oracle nice -n 10 make oracle
    stage embedded pytest tests/e2e/test_embedded.py
    stage wheel pytest tests/e2e/test_wheel.py
    stage together pytest tests/e2e/test_engines_together.py
    stage stack pytest tests/e2e/test_stack.py
    stage access pytest tests/e2e/test_access.py
}

fleet_lane() {
    stage fleet pytest tests/e2e/test_fleet.py
    stage fresh pytest tests/e2e/test_fresh.py
    stage faults pytest tests/e2e/test_faults.py
    stage service pytest tests/e2e/test_service.py
    stage embedding pytest tests/e2e/test_embedding.py
    stage swap pytest tests/e2e/test_swap.py
    stage machines pytest tests/e2e/test_probe_machines.py
}

engines_lane() {
    stage engines pytest tests/e2e/test_engines_switch.py tests/e2e/test_instances.py
    stage container pytest tests/e2e/test_vllm_container.py
    stage companions pytest tests/e2e/test_companions.py
    stage driver pytest tests/e2e/test_driver.py tests/e2e/test_driver_distribution.py
    stage cuda pytest tests/e2e/test_cuda_wheels.py
    stage lab pytest tests/chaos/test_lab.py
    stage ubuntu pytest tests/e2e/test_ubuntu.py
}

molecule_lane() {
    stage molecule make molecule JOBS=1
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
stage unit make unit
side_by_side here_lane fleet_lane engines_lane molecule_lane
finish
