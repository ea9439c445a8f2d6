#!/usr/bin/env bash
# environment.sh run|dev VENV PYTHON: make the environment from its lock file, or bring it up to date.
# Mends what a bare Debian or Ubuntu lacks (python3-venv) where it may, and says it where it may not.
set -euo pipefail
kind=$1 venv=$2 python=$3

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in "$python" python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    say "error: Python 3.11 or later is needed; found: $(command -v "$python" || echo none)"
    say "  Debian 12 and 13, Ubuntu 24.04: apt-get install python3 python3-venv"
    say "  Ubuntu 22.04:                   apt-get install python3.11 python3.11-venv"
    exit 2
}

mend_venv() {
    local package
    package="$(basename "$("$1" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')")-venv"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $package"
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >&2
    else
        say "error: this Python can't make virtual environments"
        say "  install it and run again: sudo apt-get install $package"
        exit 2
    fi
}

python=$(find_python)
if [ ! -x "$venv/bin/pip" ]; then
    rm -rf "$venv"
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        mend_venv "$python"
    fi
    "$python" -m venv "$venv"
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "requirements/$kind.lock"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
touch "$venv/.$kind"
if [ "$kind" = dev ]; then touch "$venv/.run"; fi
