"""Pages of a running enclave that change: ioctls over many pages, and what the enclave accepts.

An EACCEPT and an EMODPE are an ECALL each here, so what one costs more than an empty ECALL is
its own part; the bare figure is one stop of a tracer in C that does nothing (baseline.c).
"""

from __future__ import annotations

from bench.common import Row, figures, guest, in_turn, program, softsgx

__all__ = ["rows"]

_PAGES = 1000
_MANY = 10_000
_BARE = 2000
_STOPS = 1.5  # of the C tracer's: the target of an EACCEPT


def rows(rounds: int) -> list[Row]:
    """RESTRICT, MODIFY_TYPES and REMOVE of 1,000 pages; EACCEPT and EMODPE; 10,000 pages."""
    edmm, bare = guest("bench_edmm"), program("baseline")
    ours, many, stops = in_turn(
        rounds,
        lambda: figures(softsgx(edmm, str(_PAGES))),
        lambda: figures(softsgx(edmm, str(_MANY))) if rounds > 1 else {},
        lambda: figures([str(bare), str(_BARE)]),
    )
    stop = stops["ns_per_pair"] / 2e3
    found = []
    for key, name in (
        ("restrict_ns", "RESTRICT_PERMISSIONS"),
        ("trim_ns", "MODIFY_TYPES"),
        ("remove_ns", "REMOVE_PAGES"),
    ):
        us = ours[key] / 1e3
        title = f"{name} of {_PAGES} pages, a page"
        found.append(Row(title, "us", us, stop, "a C stop", target="1 us", met=us <= 1))
    for key, name in (("accept_ns", "EACCEPT"), ("extend_ns", "EMODPE")):
        us = (ours[key] - ours["ecall_ns"]) / 1e3
        met = us <= _STOPS * stop
        target = f"{_STOPS} of a stop"
        found.append(Row(f"{name}, beside its ECALL", "us", us, stop, "a C stop", target=target,
                         met=met))  # fmt: skip
    if many:
        # Of the leaves that a longer run has more, three a page; the rest of a page is some 0.1 us.
        us = (many["cpu_us"] - ours["cpu_us"]) / (_MANY - _PAGES) / 3
        cpu = stops["cpu_us"] / 2 / _BARE
        found.append(Row("  their CPU time, whatever runs beside", "us", us, cpu, "a C stop",
                         target=target, met=us <= _STOPS * cpu))  # fmt: skip
    for key, name in (("accept_trim_ns", "EACCEPT of a trim"), ("remove_ns", "REMOVE_PAGES")):
        if many:
            us = many[key] / 1e3
            found.append(Row(f"{name}, {_MANY} pages, a page", "us", us, stop, "a C stop"))
    return found
