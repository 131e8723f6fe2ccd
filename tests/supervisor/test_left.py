"""Children of a thread that another one's exec or exit ends before the tracer has heard of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import PATIENCE

_RUN = [sys.executable, "-m", "softsgx", "run"]


def _until(path: str, state: str) -> None:
    """Until a thread is in a state: proc_pid_stat(5)."""
    while Path(path, "stat").read_text(encoding="ascii").rpartition(") ")[2][0] not in state:
        os.sched_yield()


@pytest.mark.parametrize(
    ("options", "device"), [((), ()), (("--exact",), ()), ((), ("/dev/sgx_enclave",))]
)
@pytest.mark.parametrize("end", ["exec", "exit"])
@pytest.mark.parametrize("who", ["first", "second"])
@pytest.mark.parametrize("how", ["fork", "vfork", "clone", "clone3", "thread"])
def test_they_go_on(
    how: str, who: str, end: str, device: tuple[str, ...], options: tuple[str, ...],
    guest: Callable[[str], Path],
) -> None:  # fmt: skip
    """The tracer is stopped while all that happens, so that it hears of it when it is over."""
    pipe = subprocess.PIPE
    command: list[str | Path] = [*_RUN, *options, "--", guest("left"), how, who, end, *device]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        maker, ender = map(int, process.stdout.readline().split())
        told = Path(f"/proc/{maker}/status").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":\t", 1) for line in told)
        tracer, thread = int(fields["TracerPid"]), f"/proc/{fields['Tgid']}/task/{maker}"
        for tid in (maker, ender):
            _until(f"/proc/{tid}", "SR")  # in a call, or spinning: no stop is under way
        os.kill(tracer, signal.SIGSTOP)
        try:
            _until(f"/proc/{tracer}", "T")
            process.stdin.write("m")
            process.stdin.flush()
            _until(thread, "t")  # it has made the child
            process.stdin.write("e")
            process.stdin.flush()
            _until(f"/proc/{ender}", "DZt")  # de_thread() waits for the others to end
        finally:
            os.kill(tracer, signal.SIGCONT)
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "none\n" if how == "thread" else "7\n")
