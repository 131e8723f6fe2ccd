"""How much later a program starts under softsgx: the whole run of /bin/true, and of Python alone.

In wall time, and in CPU time of all processes, which other work beside changes less.
The byte code is compiled first, as pip does when it installs.
"""

from __future__ import annotations

import compileall
import resource
import sys
from pathlib import Path

from bench.common import ROOT, Row, best, guest, softsgx, wall_ms

__all__ = ["rows"]

_LIMIT_MS = 10


def _cpu_ms(command: list[str]) -> float:
    """The CPU time of a program and of what it waits for, in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall_ms(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def rows(rounds: int) -> list[Row]:
    """The console script and ``python -m``, and Python with nothing to do."""
    compileall.compile_dir(ROOT / "src", quiet=2)
    script = Path(sys.executable).with_name("softsgx")
    commands = {"python -m softsgx run -- /bin/true": softsgx("/bin/true")}
    if script.exists():
        commands["softsgx run -- /bin/true"] = [str(script), "run", "--", "/bin/true"]
        # From start to end: an enclave is loaded, entered 64 times, and its program ends.
        commands["the same of a small enclave"] = [
            str(script), "run", "--", str(guest("bench_ecall")), "64",
        ]  # fmt: skip
    python = [sys.executable, "-c", "pass"]
    runs = [["/bin/true"], python, *commands.values()]
    found = []
    for time_ms, said in ((wall_ms, ""), (_cpu_ms, ", CPU time")):
        works = [lambda c=c, f=time_ms: f(c) for c in runs]
        bare, empty, *ours = best(rounds * 3, *works)
        found.append(Row(f"python -c pass, for comparison{said}", "ms", empty, bare, "/bin/true"))
        for name, ms in zip(commands, ours, strict=True):
            met = ms - empty < _LIMIT_MS if name.startswith("softsgx") else None
            target = f"{_LIMIT_MS} ms above python" if met is not None else ""
            row = Row(f"{name}{said}", "ms", ms, bare, "/bin/true", target=target, met=met)
            found.append(row)
    return found
