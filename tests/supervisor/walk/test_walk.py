"""A hundred thousand memory calls on real processes, each answer foretold, each stop verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.uapi import syscalls as nr
from tests.supervisor.walk.run import DESIGNS, Divergence, Walk, known_advice

_CALLS = 100_000
_SEEDS = 4
# What walks found once, as `Walk.told` prints it: the design, and the calls.
_FOUND = {
    "an old length of foreign memory that wraps around, to an enclave": """linux-6.12
0 9 100000027000 2000 0 100022 ffffffffffffffff 0
0 9 100000030000 1000 1 13 2 0
0 19 100000027000 ffffffffffffefff 1000 3 100000030000
0 1c 100000031000 3000 4d
""",
    "an address that the driver aligns up to where something lies": """v20
0 9 10000003e000 2000 7 11 2 0
0 9 100000025001 10000 4 100001 0 1000
""",
    "a seal in foreign memory, found once an enclave's VMA has been split": """ioc-mprotect
0 9 100000038000 6000 0 11 2 0
0 9 100000039000 4000 1 32 ffffffffffffffff 0
0 1ce 10000003c000 2000 0
0 9 100000032000 4000 0 11 2 0
0 9 100000034000 9000 5 11 2 0
0 19 100000033000 4000 4000 3 100000017000
""",
    "the same, where the driver aligns the address up": """v20
0 9 10000000f000 2000 0 32 ffffffffffffffff 0
0 1ce 10000000f000 2000 0
0 9 100000002000 4000 3 11 0 0
0 9 100000007000 8000 4 11 0 0
0 19 100000006000 3000 3000 3 100000022000
""",
    "the same, found by munmap": """ioc-mprotect
0 9 100000039000 4000 1 32 ffffffffffffffff 0
0 1ce 10000003c000 1000 0
0 9 100000032000 7000 0 11 2 0
0 b 100000034000 9000
0 19 100000033000 4000 4000 3 100000017000
""",
    "the same under a design that remembers what was mapped writable": """ema
0 9 10000000b000 2000 3 32 ffffffffffffffff 0
0 1ce 10000000b000 2000 0
0 9 100000005000 8000 3 13 0 0
""",
    "a seal where the driver aligns the address to, at RLIMIT_AS": """v20
0 1001 1
1 9 100000000000 23000 1 31 ffffffffffffffff 0
0 1ce 10000001d000 2000 0
1 100e 9 100000019000 4000 0 11 1
""",
    "what a mapping may not be, under a design that asks no LSM of it": """execute-intent
0 9 100000039000 1000 7 100001 2 0
0 9 100000039000 1000 7 100001 2 10000000000
""",
}


@pytest.fixture(scope="module")
def advice() -> frozenset[int]:
    return known_advice()


@pytest.mark.parametrize("seed", range(_SEEDS))
@pytest.mark.parametrize("design", DESIGNS)
def test_a_walk(
    design: str, seed: int, guest: Callable[[str], Path], tmp_path: Path, advice: frozenset[int]
) -> None:
    walk = Walk(design, guest("walk"), tmp_path, advice)
    try:
        walk.walk(seed, _CALLS // (_SEEDS * len(DESIGNS)))
    except Divergence as divergence:
        pytest.fail(walk.told(walk.shrink(divergence, tries=60)))


@pytest.mark.parametrize("calls", _FOUND.values(), ids=_FOUND)
def test_what_walks_found(
    calls: str, guest: Callable[[str], Path], tmp_path: Path, advice: frozenset[int]
) -> None:
    design, *lines = calls.splitlines()
    walk = Walk(design, guest("walk"), tmp_path, advice)
    walk.run(*walk.foretell([tuple(int(word, 16) for word in line.split()) for line in lines]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("design", ["linux-6.12", "ioc-mprotect"])
def test_races_leave_the_model_and_the_kernel_as_one(
    design: str, seed: int, guest: Callable[[str], Path], tmp_path: Path, advice: frozenset[int]
) -> None:
    """Three threads call at the same time while a fourth makes children: nothing is foretold."""
    walk = Walk(design, guest("walk"), tmp_path, advice)
    got, status, err = walk.real(walk.race(seed, 1000), at_once=True)
    assert status == 0, err
    assert got.count(0) >= 4


def test_what_softsgx_forgets_is_found_and_shrunk(
    guest: Callable[[str], Path], tmp_path: Path, advice: frozenset[int]
) -> None:
    """A twin that answers otherwise stands for a fault of either side."""
    walk = Walk("linux-6.0", guest("walk"), tmp_path, advice)
    calls, answers = walk.draw(0, 60)
    wrong = next(i for i, c in enumerate(calls) if c[1] == nr.NR_munmap)
    answers[wrong] = -38
    with pytest.raises(Divergence) as found:
        walk.run(calls, answers)
    assert found.value.calls == calls[: wrong + 1]
    assert "not -0x26" in found.value.text
