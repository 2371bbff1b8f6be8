#!/bin/sh
# Print the command of a Python that can make the project's virtual environments; else say what to install.
# --newest: of the newest that is found, on the path or where pyenv keeps them. --newest-version: its version (3.13).
set -u

suits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if suits "$candidate"; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

find_newest() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 "$HOME"/.pyenv/versions/3.*/bin/python3}; do
        if suits "$candidate"; then
            echo "$(version_of "$candidate") $candidate"
        fi
    done | sort -t . -k 1,1n -k 2,2n | tail -n 1
}

if [ "${1:-}" = --newest ] || [ "${1:-}" = --newest-version ]; then
    newest=$(find_newest)
    if [ -n "$newest" ]; then
        [ "$1" = --newest ] && echo "${newest#* }" || echo "${newest%% *}"
        exit 0
    fi
fi

find_python && exit 0

# Debian's python3 comes without ensurepip; as root the missing piece can be had without asking.
if [ -z "${PYTHON:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv
    } >&2 </dev/null
    find_python && exit 0
fi

cat >&2 <<MESSAGE
No Python of version 3.11 or later with its venv module was found (looked for: ${PYTHON:-python3, python3.11 to 3.14}).
On Debian and Ubuntu:   sudo apt-get install python3 python3-venv
Somewhere else on disk: make setup PYTHON=/path/to/python3.12
MESSAGE
exit 1
