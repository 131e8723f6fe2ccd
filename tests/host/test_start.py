"""How a run begins: who shares whose memory, and what becomes of who does not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from softsgx.host import ptrace, start
from softsgx.uapi.sched import KCMP_VM
from tests.command import PATIENCE

_RUN = "sys.argv = ['softsgx', 'run', *sys.argv[1:]]; from softsgx.cli.entry import main; main()"
_SHARED, _APART = "", "from softsgx.host import start; start.may_share = lambda: False; "


_SPINS = """
import os
from softsgx.supervisor.loop import processes
def executed(*_):
    os.write(2, b"spins\\n")
    while True:
        pass
processes.executed = executed
"""


@contextmanager
def _started(how: str, *args: str, err: int | None = None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", f"import sys; {how}{_RUN}", *args]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=err, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.parametrize(("how", "shared"), [(_SHARED, start.may_share()), (_APART, False)])
def test_the_front_and_the_tracer_share_their_memory(how: str, shared: bool) -> None:
    with _started(how, "sh", "-c", "echo there; read x; exit 5") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        found = ptrace.shares(process.pid, _child_of(process.pid), KCMP_VM)
        if found is None:
            pytest.skip("no kcmp(2) here; a kernel with CONFIG_KCMP forces it")
        assert found is shared
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(PATIENCE) == 5


@pytest.mark.parametrize("how", [_SHARED, _APART])
def test_a_tracer_that_stands_still_keeps_no_signal_from_the_program(how: str) -> None:
    with _started(how, "sh", "-c", "echo there; exec sleep 1000") as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(_child_of(process.pid), signal.SIGSTOP)
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM


def test_a_tracer_that_spins_ends_by_a_signal() -> None:
    with _started(_SPINS, "true", err=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "spins\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == -signal.SIGINT


@pytest.mark.parametrize("how", [_SHARED, _APART])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV])
def test_it_ends_as_the_program_does(how: str, number: signal.Signals) -> None:
    with _started(how, "sh", "-c", f"kill -{number.name[3:]} $$") as process:
        assert process.wait(PATIENCE) == -number


@pytest.mark.parametrize("how", [_SHARED, _APART])
def test_what_is_left_behind_by_a_crash_is_served(
    how: str, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    """The tracer lives on when the front ends by a signal that dumps core, and has threads."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    served = f"read x < {fifo}; {guest('manyenclaves')} 2 > /dev/null; echo served $? > {fifo}"
    with _started(how, "sh", "-c", f"({served}) > /dev/null 2>&1 & kill -SEGV $$") as process:
        assert process.wait(PATIENCE) == -signal.SIGSEGV
    fifo.write_text("go\n")
    assert fifo.read_text() == "served 0\n"


def test_a_release_that_nobody_can_read_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "5.15.0-91-generic": False, "5.16": True, "5.16-rc1": True, "6.1.0-18-amd64": True,
        "4.19.0": False, "10.0": True, "": False, "six.one": False, "6": False,
    }  # fmt: skip
    for release, shares in told.items():
        name = os.uname_result(("Linux", "host", release, "#1", "x86_64"))
        monkeypatch.setattr(os, "uname", lambda name=name: name)
        assert start.may_share() is shares, release


def test_no_process_more_is_told_with_its_errno() -> None:
    code = (
        "import os, resource, sys; from softsgx.host import start;"
        "os.setuid(65534); resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n"
        "try: start.split(*os.pipe(), ())\n"
        "except OSError as e: print(e.errno)"
    )
    if os.geteuid() != 0:
        code = code.replace("os.setuid(65534); ", "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{errno.EAGAIN}\n", done.stderr
