"""When enclaves that nobody has are freed: to find out is dear, so it may wait a little."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from softsgx.device.files import PathFile
from softsgx.supervisor.state import enclaves

_MS = 1_000_000


class _Clock:
    """The time, the reads of /proc/locks, 10 ms each, and the decoys that they name."""

    def __init__(self) -> None:
        self.now_ns, self.reads = 0, 0
        self.held: set[tuple[int, int]] = set()

    def locked(self) -> frozenset[tuple[int, int]]:
        self.reads += 1
        self.now_ns += 10 * _MS
        return frozenset(self.held)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(enclaves, "locked", clock.locked)
    monkeypatch.setattr(enclaves, "monotonic_ns", lambda: clock.now_ns)
    return clock


@pytest.fixture
def run() -> Any:
    """A run of one process, which has one file of the device's."""
    return SimpleNamespace(
        tracees={os.getpid(): None}, early={}, locks_due=0, mapped_due=0, early_memory={},
        memories={}, device=SimpleNamespace(processes=set()),
        files={(0, 1): PathFile("/dev/sgx_enclave")},
    )  # fmt: skip


def test_what_nobody_has_is_freed_and_what_a_message_holds_is_not(run: Any, clock: _Clock) -> None:
    run.files[0, 2] = PathFile("/dev/sgx_enclave")
    clock.held = {(0, 2)}
    enclaves.collect(run)
    assert set(run.files) == {(0, 2)}


def test_it_takes_a_twentieth_of_the_time(run: Any, clock: _Clock) -> None:
    clock.held = {(0, 1)}
    for _ in range(1000):
        enclaves.collect(run)
        clock.now_ns += _MS
    assert clock.reads == pytest.approx(clock.now_ns / (200 * _MS), abs=1)


def test_much_memory_does_not_wait(
    run: Any, clock: _Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enclaves, "_held_bytes", lambda _: 64 << 20)
    clock.held = {(0, 1)}
    for _ in range(10):
        enclaves.collect(run)
    assert clock.reads == 10


@pytest.mark.parametrize(("files", "share"), [(1, 1), (200, 20)])
def test_many_enclaves_are_looked_through_as_seldom(
    run: Any, clock: _Clock, files: int, share: int
) -> None:
    looks = 0

    def mapped() -> Iterator[Any]:
        nonlocal looks
        looks += 1
        clock.now_ns += _MS
        return iter(())

    class Process:
        mm = property(lambda _: mapped())

    run.device.processes.add(Process())
    run.files.update({(0, n): PathFile("/dev/sgx_enclave") for n in range(files)})
    clock.held = set(run.files)
    run.locks_due = 1 << 60
    for _ in range(1000):
        enclaves.collect(run)
        if clock.now_ns < run.mapped_due:
            clock.now_ns += _MS
    assert looks == pytest.approx(1000 / (share - 1 or 1), abs=1)


def test_the_end_of_a_run_frees_nothing(run: Any, clock: _Clock) -> None:
    run.tracees.clear()
    enclaves.collect(run)
    assert clock.reads == 0
