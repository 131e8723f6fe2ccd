"""A process that has changed what is ours in its memory: it ends, and the others go on."""

from __future__ import annotations

import os

from softsgx.complaints import complain
from softsgx.host.signals import SIGKILL

__all__ = ["broken"]


def broken(tid: int, why: str) -> ProcessLookupError:
    """Kill the process of a stopped thread, and say why: what to raise, as if it were gone."""
    complain(f"process {tid} is killed: {why}")
    os.kill(tid, SIGKILL)
    return ProcessLookupError(tid)
