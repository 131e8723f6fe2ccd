"""A plugin of pytest: programs of a test suite run under softsgx, and what they did is asserted on.

A suite that has softsgx installed has the fixture `softsgx`; nothing of it is imported before a
test asks for it. Rejected: tracing pytest itself, whose own memory calls would be in the way.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from softsgx.report.runs import Run as Recorded

__all__ = [
    "Done",
    "Runner",
    "pytest_addoption",
    "pytest_generate_tests",
    "pytest_runtest_makereport",
    "softsgx",
    "softsgx_design",
]

_LINES = 30
_RUNNERS = pytest.StashKey["Runner"]()


class Done:
    """A program that has run: ``returncode`` (negative: the signal), ``stdout``, ``stderr``.

    recording: the file; ``softsgx show`` and ``softsgx report`` read it.
    """

    def __init__(self, done: subprocess.CompletedProcess[str], recording: Path) -> None:
        self.returncode, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr
        self.recording = recording

    def events(
        self, name: str = "", *, errno: str | int | None = None, **fields: Any
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The events of the run, in order, that are all of what is given.

        name: of an event (``aex``), an ioctl, with or without ``SGX_IOC_ENCLAVE_`` in front, a call
        (``mprotect``) or an ENCLU leaf (``EACCEPT``). errno: the name of the one that it failed
        with, "any", or 0 for success. fields: of docs/recordings.md, by value.
        """
        return [
            event
            for run in self._runs()
            for event in run.events
            if _is(event, name) and _failed(event, errno)
            and all(event.get(field) == value for field, value in fields.items())
        ]  # fmt: skip

    def tail(self, lines: int = _LINES) -> str:
        """The end of the recording, as ``softsgx show`` prints it."""
        text = "".join(line for run in self._runs() for line in run.lines)
        return "\n".join(text.splitlines()[-lines:])

    def _runs(self) -> list[Recorded]:
        from softsgx.errors import SoftsgxError
        from softsgx.report.runs import runs_of

        try:
            return runs_of(str(self.recording))
        except SoftsgxError:  # softsgx itself refused: stderr says why
            return []


def _is(event: dict[str, Any], name: str) -> bool:
    if not name or name == event["event"] or name == event.get("call"):
        return True
    if event["event"] == "enclu":
        from softsgx.report.text import enclu_name

        return name == enclu_name(event["leaf"])
    called = str(event.get("name", ""))
    return bool(called) and name in (called, called.removeprefix("SGX_IOC_ENCLAVE_"))


def _failed(event: dict[str, Any], errno: str | int | None) -> bool:
    if errno is None:
        return True
    from softsgx.uapi.errno import errno_name

    answer = event.get("answer")
    if not isinstance(answer, int):
        return False
    failed = -4096 < answer < 0
    if errno in ("any", 0):
        return bool(failed) == bool(errno)
    wanted = errno_name(errno) if isinstance(errno, int) else errno
    return failed and errno_name(answer) == wanted


class Runner:
    """Runs programs under a software SGX device: call it. ``runs``: what has run."""

    def __init__(self, folder: Path, design: str | None) -> None:
        self._folder, self.design = folder, design
        self.runs: list[Done] = []

    def __call__(
        self, *argv: str | os.PathLike[str], design: str | None = None, epc: str = "",
        selinux: Sequence[str | os.PathLike[str]] | str = (), context: str = "",
        booleans: Mapping[str, bool] | None = None, apparmor: str = "",
        options: Sequence[str] = (), stdin: str = "", timeout: float = 60,
        env: Mapping[str, str] | None = None, cwd: str | os.PathLike[str] | None = None,
    ) -> Done:  # fmt: skip
        """Run a program to its end, recorded.

        design: ``NAME:OPTION=VALUE``; default: ``--softsgx-design``'s, else softsgx's own. epc: as
        ``64M``. selinux: policies and modules; context, booleans: of it. apparmor: ``FILE:NAME``.
        options: others of ``softsgx run``. env: added to the environment. timeout: seconds, after
        which subprocess.TimeoutExpired is raised.
        """
        recording = self._folder / f"softsgx-{len(self.runs)}.jsonl"
        words = [sys.executable, "-m", "softsgx", "run", "--record", str(recording), *options]
        given = [selinux] if isinstance(selinux, str) and selinux else selinux
        pairs = [("--design", design or self.design), ("--epc", epc), ("--context", context)]
        pairs += [("--selinux", os.fspath(policy)) for policy in given]
        pairs += [("--boolean", f"{k}={'on' if v else 'off'}") for k, v in (booleans or {}).items()]
        pairs.append(("--apparmor", apparmor))
        words += [word for name, value in pairs if value for word in (name, value)]
        words += ["--", *(os.fspath(word) for word in argv)]
        done = subprocess.run(
            words, input=stdin, capture_output=True, text=True,
            timeout=timeout, env={**os.environ, **(env or {})}, cwd=cwd, check=False,
            errors="backslashreplace",
        )  # fmt: skip
        self.runs.append(Done(done, recording))
        return self.runs[-1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option ``--softsgx-design``."""
    parser.getgroup("softsgx").addoption(
        "--softsgx-design", action="append", default=[], metavar="NAME[:OPTION=VALUE,…]",
        help="run tests with the fixture softsgx under this design; given again: under each",
    )  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test a design, where there are several."""
    designs = metafunc.config.getoption("--softsgx-design")
    if designs and "softsgx_design" in metafunc.fixturenames:
        metafunc.parametrize("softsgx_design", designs, indirect=True)


@pytest.fixture
def softsgx_design(request: pytest.FixtureRequest) -> str | None:
    """The design that ``--softsgx-design`` chose for this test, None for softsgx's own."""
    chosen: str | None = getattr(request, "param", None)
    return chosen


@pytest.fixture
def softsgx(request: pytest.FixtureRequest, tmp_path: Path, softsgx_design: str | None) -> Runner:
    """Runs programs under a software SGX device; see `Runner`."""
    runner = Runner(tmp_path, softsgx_design)
    request.node.stash[_RUNNERS] = runner
    return runner


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A failing test's report has the end of its last recording."""
    report = yield
    runner = item.stash.get(_RUNNERS, None)
    if report.failed and runner is not None and runner.runs:
        last = runner.runs[-1]
        if last.stderr:
            report.sections.append(("standard error under softsgx", last.stderr))
        report.sections.append((f"end of {last.recording}", last.tail()))
    return report
