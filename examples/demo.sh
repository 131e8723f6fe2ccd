#!/usr/bin/env bash
# `make demo`: an unmodified SGX program, then the design of May 2019 that softsgx began with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${OUT:-$PWD/.cache/demo}

make -s -C examples/hello OUT="$out/hello"
make -s -C examples/designs OUT="$out/designs"
PATH=$out/hello:$out/designs:$PATH
cd "$out"
rm -f -- *.jsonl *.cil

say() { printf '%s\n' "$@"; }
# Runs what it shows, in this shell.
show() {
    printf '$ %s\n' "$1"
    eval "$1" 2>&1 || true
}

say '# A loader and an enclave that know nothing of softsgx, on a machine without SGX.'
show "softsgx run --record hello.jsonl -- hello ${1:-you}"
show "softsgx show hello.jsonl | grep -E 'open\(|CREATE|INIT|RX|EENTER|EEXIT'"
say '' \
    "# Sean Christopherson's design of 23 May 2019: to run an enclave takes READ and EXECUTE on" \
    '# the device, and no WRITE. This loader has an unmodified file:'
show 'design=ioc-mprotect:source=prot,open=rdonly'
show 'policy="--selinux minimal --context loader_t --boolean sgx_loader_write=off"'
show 'softsgx run --design $design $policy --record file.jsonl -- loader ioc-mprotect file rdonly'
show "softsgx explain file.jsonl | grep -v ioctl | grep -o '^granted .*enclave_device_t' | sort -u"
say '' '# This one generates its code on the fly:'
show 'softsgx run --design $design $policy --record gen.jsonl -- loader ioc-mprotect generated rdonly'
show 'softsgx explain --denied gen.jsonl'
say '' '# The rule that would allow it, and the run with it:'
show "softsgx policy gen.jsonl | tee allow.cil | grep -v '^;'"
show 'softsgx run --design $design $policy --selinux allow.cil -- loader ioc-mprotect generated rdonly'
