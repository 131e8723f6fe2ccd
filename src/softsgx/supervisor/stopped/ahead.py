"""What compiled code answers before Python sees it: when that is possible, and the wait for it.

Somebody has asked the law what it says of stops that are likely to come, and has put into a block
what the code compares them with. What it took is told to the model before anything else that
happened is looked at.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from softsgx.supervisor.state.run import Run
from softsgx.supervisor.stopped import waits

__all__ = ["Ahead", "possible"]

_MOST_SKIPPED = 64


def possible(run: Run, code: ModuleType) -> bool:
    """Whether nobody wants to hear of each, and the code is built."""
    options = run.options
    asked = (run.record, run.faults, run.lsm, run.debugger)
    usual = all(who is None for who in asked) and not options.verify and not options.abort_page
    unlike = run.filtered or run.rings
    return usual and not unlike and bool(code.available())


class Ahead:
    """What is expected to go on, and `Run.ahead` while it is.

    code: its module of `softsgx.host`. most: how many are foreseen at first. worth: as many have
    to come that the next try is not put off.
    """

    worth = 4

    def __init__(self, run: Run, code: ModuleType, most: int) -> None:
        self._run, self._code = run, code
        self._block = code.Block() if possible(run, code) else None
        self._last: tuple[Any, ...] = ()
        self._found: Any = None
        self._most = most
        self._taken = self._skip = self._pause = 0
        self._spared = False

    def _skipped(self) -> bool:
        """Whether this one is let pass, since few came of late."""
        if not self._skip:
            return False
        self._skip -= 1
        return True

    def _begin(self) -> None:
        """The block is filled in: the next wait is for these."""
        self._taken, self._run.ahead = 0, self

    def wait(self) -> tuple[int, int]:
        """The next event that is none of these, as `waits.wait_any` tells it."""
        got, status = self._take()
        return (got, status) if got else waits.wait_any()

    def _take(self) -> tuple[int, int]:
        """Let the code take what comes: another event that it met, (0, 0) if none."""
        block = self._block
        assert block is not None
        got = status = 0
        while not waits.kept and not waits.slices and self._found is not None:
            poll_ns = block["poll_ns"] = self._poll_ns()
            block.run()
            waits.polled(block["done"], in_vain=poll_ns > 0 and not block["poll_ns"])
            got, status = block["got"], block["status"]
            if self._came(block["done"]):
                break
        self._end(missed=got == block["tid"])
        return got, status

    def _poll_ns(self) -> int:
        return waits.poll_ns()

    def _came(self, n: int) -> bool:
        """The code has taken ``n``: whether something else has happened."""
        raise NotImplementedError

    def _end(self, *, missed: bool) -> None:
        """missed: the thread itself did something else. What another does says nothing of it, but
        if that goes on it is not worth while, either.
        """
        self._found = None
        self._run.ahead = self._run.accepts  # who may have been here before
        self._spared = not missed and not self._spared
        if self._taken >= self.worth:
            self._pause = 0
        elif not self._spared:
            self._pause = min(self._pause * 2 + 1, _MOST_SKIPPED)
        self._skip = self._pause
