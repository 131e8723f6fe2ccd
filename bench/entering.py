"""EENTER to EEXIT: an empty ECALL by each way, beside a C tracer's two stops and nothing else.

The bare figure is the least that a tracer pays for two stops here (see baseline.c); what does
not stop costs a small part of it. Figures of several threads are of all their calls together:
on N free cores N threads take the N-th part.
"""

from __future__ import annotations

import os

from bench.common import Row, figures, guest, in_turn, program, softsgx

__all__ = ["rows"]

_STOPPING = 2000  # calls: some 100 ms, and a short run is left alone by other work more often
_NOT_STOPPING = 2_000_000
_SHORT_US = 0.3
_STOPS_US = 80
_OCALL_US = 1.0  # an entry, a leaving, and what the test enclave does between them


def rows(rounds: int) -> list[Row]:
    """Through the vDSO with no stop by 1, 8 and 64 threads, with stops, and by raw ENCLU."""
    ecall, bare = guest("bench_ecall"), program("baseline")
    cpu: list[float] = []

    def measured(threads: int, calls: int, *how: str, raw: tuple[str, ...] = ()) -> list[float]:
        ours, theirs = in_turn(
            rounds,
            lambda: figures(softsgx(*how, "--", ecall, str(calls // threads), str(threads), *raw)),
            lambda: figures([str(bare), str(_STOPPING // threads), str(threads)]),
        )
        cpu.append(ours["cpu_ns_per_ecall"] / 1e3)
        return [ours["ns_per_ecall"] / 1e3, theirs["ns_per_pair"] / 1e3]

    def row(name: str, found: list[float], target: str, met: bool | None) -> Row:
        return Row(name, "us", found[0], found[1], "C tracer", target=target, met=met)

    cores = len(os.sched_getaffinity(0))
    one, eight, many = (measured(threads, _NOT_STOPPING) for threads in (1, 8, 64))
    raw = measured(1, _STOPPING, raw=("raw",))
    exact = measured(1, _STOPPING, "--exact")
    short, stops = f"at most {_SHORT_US} us", f"under {_STOPS_US} us"
    return [
        row("ECALL through the vDSO, 1 thread", one, short, one[0] <= _SHORT_US),
        row("  its CPU time, whatever runs beside", [cpu[0], one[1]], short, cpu[0] <= _SHORT_US),
        row(
            "ECALL through the vDSO, 8 threads", eight,
            f"a 1/{cores} of 1 thread", eight[0] <= one[0] / cores * 1.25,
        ),
        row(
            "ECALL through the vDSO, 64 threads", many,
            "no more than 8 threads", many[0] <= eight[0] * 1.25,
        ),
        row("ECALL by raw ENCLU, 1 thread", raw, short, raw[0] <= _SHORT_US),
        row("ECALL with --exact, 1 thread", exact, stops, exact[0] < _STOPS_US),
        *_inside(rounds),
    ]  # fmt: skip


def _inside(rounds: int) -> list[Row]:
    """An OCALL as Intel's runtime makes it, and one long ECALL under signals."""
    ours, bare = in_turn(
        rounds,
        lambda: figures(softsgx(guest("bench_inside"))),
        lambda: figures([str(program("baseline")), str(_STOPPING)]),
    )
    ocall, stops = ours["ns_per_ocall"] / 1e3, bare["ns_per_pair"] / 1e3
    signalled, alone = ours["ns_signalled"] / 1e6, ours["ns_computing"] / 1e6
    return [
        Row("OCALL that clears registers, a loop", "us", ocall, stops, "C tracer",
            target=f"at most {_OCALL_US} us", met=ocall <= _OCALL_US),
        Row("a long ECALL, 1,000 signals a second", "ms", signalled, alone, "no signals"),
    ]  # fmt: skip
