"""EENTER to EEXIT: an empty ECALL, beside a C tracer's two stops and nothing else.

The bare figure is the least that any tracer pays here (see baseline.c).
"""

from __future__ import annotations

from bench.common import Row, figures, guest, in_turn, program, softsgx

__all__ = ["rows"]

_CALLS = 2000  # some 100 ms: a short run is left alone by other work more often


def rows(rounds: int) -> list[Row]:
    """One thread through the vDSO, by raw ENCLU, and eight threads through the vDSO."""
    ecall, bare = guest("bench_ecall"), program("baseline")
    found = []
    for name, threads, extra, limit in (
        ("ECALL through the vDSO, 1 thread", 1, (), 80),
        ("ECALL by raw ENCLU, 1 thread", 1, ("raw",), None),
        ("ECALL through the vDSO, 8 threads", 8, (), 80),
    ):
        calls = str(_CALLS // threads)
        ours, theirs = in_turn(
            rounds * 2,
            lambda c=calls, t=threads, e=extra: figures(softsgx(ecall, c, str(t), *e)),  # type: ignore[misc]
            lambda c=calls, t=threads: figures([str(bare), c, str(t)]),  # type: ignore[misc]
        )
        us = ours["ns_per_ecall"] / 1e3
        target = f"under {limit} us" if limit else ""
        met = us < limit if limit else None
        bare_us = theirs["ns_per_pair"] / 1e3
        found.append(Row(name, "us", us, bare_us, "C tracer", target=target, met=met))
    return found
