"""How much later a program starts under softsgx: the whole run of /bin/true, and of Python alone.

The byte code is compiled first, as pip does when it installs.
"""

from __future__ import annotations

import compileall
import sys
from pathlib import Path

from bench.common import ROOT, Row, best, softsgx, wall_ms

__all__ = ["rows"]

_LIMIT_MS = 10


def rows(rounds: int) -> list[Row]:
    """The console script and ``python -m``, without what the bare program takes."""
    compileall.compile_dir(ROOT / "src", quiet=2)
    script = Path(sys.executable).with_name("softsgx")
    commands = {"python -m softsgx run -- /bin/true": softsgx("/bin/true")}
    if script.exists():
        commands["softsgx run -- /bin/true"] = [str(script), "run", "--", "/bin/true"]
    python = [sys.executable, "-c", "pass"]
    runs = [["/bin/true"], python, *commands.values()]
    bare, empty, *ours = best(rounds * 3, *[lambda c=c: wall_ms(c) for c in runs])
    found = [Row("python -c pass, for comparison", "ms", empty, bare, "/bin/true")]
    for name, ms in zip(commands, ours, strict=True):
        met = ms - empty < _LIMIT_MS if name.startswith("softsgx") else None
        target = f"{_LIMIT_MS} ms above python" if met is not None else ""
        found.append(Row(name, "ms", ms, bare, "/bin/true", target=target, met=met))
    return found
