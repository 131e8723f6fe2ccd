"""A program that jumps into code of ours with any registers: what is made of them is registers.

They are a program's to choose, and where a fault or a signal finds it there the tracer rolls back
what it takes for its own code's.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from softsgx.host import adds, cpuidcode, library, pathcode, pathinsn, ptrace
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RIP

_BASE, _TRIES = 0x7F0000000000, 20000


def _tried(seed: int, size: int, words: list[int], roll: Callable[[Any], object]) -> None:
    """Registers of all kinds, somewhere in ``size`` bytes of code. words: what the code packs."""
    chance, regs = random.Random(seed), ptrace.Registers()
    kinds: list[Callable[[], int]] = [
        lambda: chance.getrandbits(64),
        lambda: chance.randrange(500),
        lambda: -1 - chance.randrange(600) & (1 << 64) - 1,
        lambda: _BASE + chance.randrange(size),
        lambda: chance.choice(words) << 32 & (1 << 64) - 1 | chance.randrange(500),
        lambda: chance.choice(words) << 48 & (1 << 64) - 1,
    ]
    for _ in range(_TRIES):
        for register in range(len(regs.view)):
            regs.view[register] = chance.choice(kinds)()
        regs.view[RIP] = _BASE + chance.randrange(size)
        roll(regs.view)


@pytest.mark.parametrize("seed", range(2))
def test_calls(seed: int) -> None:
    """Among them those of a library that is nowhere yet: such a site was an address."""
    code = pathcode.load()
    sites = [
        (0x400000 + 64 * i, n, pathinsn.replaced(n)) for i, n in enumerate(sorted(pathcode.LED))
    ]
    which = library.Library(4096, 0, len(sites), [(64, nr.NR_open, pathinsn.replaced(nr.NR_open))])
    sites += which.placeholders()
    plans = {3: (4096, 0), code.library & 0xFFFF: (8192, 4096)}
    size = len(code.contents) + code.stub_bytes * (len(sites) + 2)
    words = [len(code.contents) + code.stub_bytes * i for i in range(len(sites) + 2)] + [3]
    _tried(seed, size, words, lambda view: code.roll(view, _BASE, sites, plans))


def test_cpuids() -> None:
    code = cpuidcode.load()
    sites = [(0x600000, b"\xb8\x01\0\0\0"), (0, b""), (0x700000, b"")]

    def peek(addr: int, length: int) -> bytes:
        return bytes(length) if addr + length <= 1 << 47 else b""

    _tried(2, 0x8000, [0], lambda view: code.roll(view, _BASE, sites, peek, lambda _a, _b: 0))


def test_pages_that_are_added() -> None:
    code = adds.load()
    shared = adds.Shared()
    try:
        for i in range(len(shared.words)):
            shared.words[i] = random.Random(i).getrandbits(64)
        _tried(
            3, 4096, [0], lambda view: code.roll(view, _BASE, 0x400000, shared, lambda _a, _b: 8)
        )
    finally:
        shared.close()
