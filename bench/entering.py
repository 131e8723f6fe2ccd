"""EENTER to EEXIT: an empty ECALL by each way, beside a C tracer's two stops and nothing else.

The bare figure is the least that a tracer pays for two stops here (see baseline.c); what does
not stop costs a small part of it. Figures of several threads are of all their calls together:
on N free cores N threads take the N-th part. How many are free, other work decides: so how much
more several threads do than one is held against a loop in C that does nothing else (cores.c).
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
    gains = _gains(rounds)
    raw = measured(1, _NOT_STOPPING, raw=("raw",))
    exact = measured(1, _STOPPING, "--exact")
    short, stops = f"at most {_SHORT_US} us", f"under {_STOPS_US} us"
    return [
        row("ECALL through the vDSO, 1 thread", one, short, one[0] <= _SHORT_US),
        row("  its CPU time, whatever runs beside", [cpu[0], one[1]], short, cpu[0] <= _SHORT_US),
        row(
            "ECALL through the vDSO, 8 threads", eight,
            f"a 1/{cores} of 1 thread if no core does other work", None,
        ),
        row(
            "ECALL through the vDSO, 64 threads", many,
            "no more than 8 threads", many[0] <= eight[0] * 1.25,
        ),
        *gains,
        row("ECALL by raw ENCLU, 1 thread", raw, short, raw[0] <= _SHORT_US),
        row("ECALL with --exact, 1 thread", exact, stops, exact[0] < _STOPS_US),
        *_inside(rounds),
    ]  # fmt: skip


def _gains(rounds: int) -> list[Row]:
    """How many times as much several threads do as one, and how many times a bare loop's."""
    ecall, loop = guest("bench_ecall"), program("cores")
    counts = (1, 8, 64)

    def ours(threads: int) -> dict[str, float]:
        return figures(softsgx("--", ecall, str(_NOT_STOPPING // threads), str(threads)))

    def bare(threads: int) -> dict[str, float]:
        return figures([str(loop), str(_NOT_STOPPING), str(threads)])

    works = [lambda n=n, f=f: f(n) for n in counts for f in (ours, bare)]
    found = in_turn(rounds, *works)
    ns = [f.get("ns_per_ecall", 0) or f["ns_per_round"] for f in found]
    rows = []
    for at, threads in ((2, 8), (4, 64)):
        gain, free = ns[0] / ns[at], ns[1] / ns[at + 1]
        rows.append(Row(
            f"  {threads} threads do, times one", "x", gain, free, "loop in C",
            target="0.9 of the loop's", met=gain >= 0.9 * free,
        ))  # fmt: skip
    return rows


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
