"""What the supervisor's memory is when a program has many enclaves at once."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from bench.common import Row, environment, guest, softsgx

__all__ = ["rows"]

_MANY, _LIMIT_MB = 200, 40
_SLEEP_S = 0.02


def _tracer_of(pid: int) -> int:
    """The tracing process that a run of softsgx has started, 0 while there is none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        names = {int(child): Path(f"/proc/{child}/comm").read_text() for child in children}
    except OSError:
        return 0
    return next((child for child in names if names[child].startswith(("python", "softsgx"))), 0)


def _most_mb(enclaves: int) -> float:
    """The largest resident size of the tracer over a run with so many enclaves."""
    command = softsgx(guest("manyenclaves"), str(enclaves))
    most = 0.0  # of VmHWM, as long as it can be read
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment()) as process:
        tracer = 0
        while process.poll() is None:
            tracer = tracer or _tracer_of(process.pid)
            try:
                lines = Path(f"/proc/{tracer}/status").read_text().splitlines()
            except OSError:
                lines = []
            for line in lines:
                if line.startswith("VmHWM:"):
                    most = max(most, int(line.split()[1]) / 1024)
            time.sleep(_SLEEP_S)
    if process.returncode or not most:
        raise SystemExit(f"{' '.join(command)}: {process.returncode}, {most} MB seen")
    return most


def rows(rounds: int) -> list[Row]:  # noqa: ARG001 - a size needs no rounds
    """The tracer's memory with 200 enclaves beside that with one."""
    many, one = _most_mb(_MANY), _most_mb(1)
    name = f"{_MANY} enclaves, the supervisor's memory"
    target = f"{_LIMIT_MB} MB"
    return [Row(name, "MB", many, one, "one enclave", target=target, met=many <= _LIMIT_MB)]
