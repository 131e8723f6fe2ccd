#!/usr/bin/env bash
# `make demo`: build the sample enclave and run its unmodified loader under softsgx.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$PWD/.cache/hello

make -s -C examples/hello OUT="$out"
show() {
    printf '\n$ %s\n' "${*//$PWD\//}"
    "$@"
}
show softsgx run -- "$out/hello" "${1:-you}"
