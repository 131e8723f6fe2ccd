"""What a user and a shell see of a run: signals, job control, kills, what is left behind."""

from __future__ import annotations

import ctypes
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.command import PATIENCE, Softsgx

RUN = [sys.executable, "-m", "softsgx", "run", "--"]


@contextmanager
def _start(*program: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([*RUN, *program], stdout=pipe, stdin=pipe, text=True, **options) as p:
        try:
            yield p
        finally:
            p.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _wait_gone(pid: int) -> None:
    """Until a process that is no child of ours has ended (a pidfd tells, without polling)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], PATIENCE)[0], f"{pid} lives on"
    finally:
        os.close(fd)


def test_killing_softsgx_kills_what_it_runs() -> None:
    with _start("sh", "-c", "sleep 1000 & echo $!; echo $$; wait") as process:
        pids = [int(_line(process)), int(_line(process))]
        process.kill()
        process.wait(PATIENCE)
        for pid in pids:
            _wait_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_softsgx_reaches_the_program(number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 7' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with _start("sh", "-c", script) as process:
        assert _line(process) == "ready"
        process.send_signal(number)
        assert _line(process) == "got"
        assert process.wait(PATIENCE) == 7


def test_an_untrapped_signal_kills_both_alike() -> None:
    with _start("sh", "-c", "echo ready; exec sleep 1000") as process:
        assert _line(process) == "ready"
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM


def _pty_shell(script: str) -> tuple[int, int]:
    """A session with a terminal of its own that runs a script: its pid and our end."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", script])
    return pid, fd


def _until(fd: int, pattern: str) -> str:
    seen = b""
    while not re.search(pattern, seen.decode()):
        assert select.select([fd], [], [], PATIENCE)[0], f"no {pattern!r} after {seen!r}"
        try:
            piece = os.read(fd, 4096)
        except OSError:
            piece = b""
        assert piece, f"the terminal closed after {seen!r}"
        seen += piece
    return seen.decode()


def test_control_c_interrupts_the_program_and_softsgx_ends_by_it() -> None:
    command = " ".join(RUN)
    pid, fd = _pty_shell(
        f"trap : INT; {command} sh -c 'echo re\"\"ady; exec sleep 1000'; echo status=$?; exit 0"
    )
    try:
        _until(fd, "ready")
        os.write(fd, b"\x03")
        assert "status=130" in _until(fd, r"status=\d+\s")
    finally:
        os.close(fd)
        os.waitpid(pid, 0)


def test_a_program_may_handle_control_c() -> None:
    command = " ".join(RUN)
    inner = 'trap "echo caught; exit 4" INT; echo re""ady; while :; do sleep 0.05; done'
    pid, fd = _pty_shell(f"trap : INT; {command} sh -c '{inner}'; echo status=$?; exit 0")
    try:
        _until(fd, "ready")
        os.write(fd, b"\x03")
        seen = _until(fd, r"status=\d+\s")
        assert "caught" in seen
        assert "status=4" in seen
    finally:
        os.close(fd)
        os.waitpid(pid, 0)


def test_nothing_is_left_stopped() -> None:
    with _start(
        "sh",
        "-c",
        "sleep 1000 & echo $!; kill -STOP $!; echo stopped;"
        " kill -CONT $!; kill $!; wait $!; echo $?",
    ) as process:
        pid = int(_line(process))
        assert _line(process) == "stopped"
        assert _line(process) == str(128 + signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        _wait_gone(pid)


def test_the_environment_and_descriptors_pass_through(tmp_path: Path) -> None:
    read, write = os.pipe()
    with _start(
        "sh", "-c", f"(echo $GREETING; pwd) > /proc/self/fd/{write}",
            pass_fds=(write,), cwd=tmp_path, env={**os.environ, "GREETING": "hello"},
    ) as process:  # fmt: skip
        os.close(write)
        assert process.wait(PATIENCE) == 0
        with os.fdopen(read) as f:
            assert f.read().split() == ["hello", str(tmp_path)]


def test_a_closed_standard_input_stays_closed() -> None:
    process = subprocess.run(
        [*RUN, "sh", "-c", "read x || echo no input"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert process.stdout.strip() == "no input"
    assert not process.stderr


def test_softsgx_ends_with_the_program_and_serves_what_it_leaves(
    softsgx: Softsgx, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    served = f"read x < {fifo}; test -c /dev/sgx_enclave; echo served $? > {fifo}"
    script = f"({served}) > /dev/null 2>&1 & exit 3"
    done = softsgx("--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (3, "")
    fifo.write_text("go\n")
    assert fifo.read_text() == "served 0\n"


def test_the_readers_of_what_the_program_closed_do_not_wait_for_a_tracer() -> None:
    # communicate() ends when nobody holds the two pipes any more.
    with subprocess.Popen(
        [*RUN, "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!; exit 4"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (4, "")
    os.kill(int(out), signal.SIGTERM)
    _wait_gone(int(out))


def test_wait_ends_with_the_last_descendant() -> None:
    script = "exec 3<&0; (read x; echo last) <&3 & echo $!; exit 3"
    with subprocess.Popen(
        [*RUN[:-1], "--wait", "--", "sh", "-c", script],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        pid = int(_line(process))
        process.stdin.write("x\n")
        process.stdin.flush()
        assert _line(process) == "last"
        assert process.wait(PATIENCE) == 3
        _wait_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_wait_for_descendants(number: signal.Signals) -> None:
    # The name of the device is asked about once the tracer has seen the program's end.
    left = "while kill -0 $1 2>&-; do :; done; test -c /dev/sgx_enclave; echo $$; kill -STOP $$"
    script = f"trap '' TERM INT HUP; sh -c '{left}' sh $$ & exit 3"
    with subprocess.Popen(
        [*RUN[:-1], "--wait", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        pid = int(_line(process))
        process.send_signal(number)
        assert process.wait(PATIENCE) == -number
        _wait_gone(pid)


def test_a_stopped_program_stops_softsgx_and_both_go_on() -> None:
    # A group of its own: one that is orphaned, as a CI's may be, is not stopped by the terminal.
    script = "echo $$; kill -TSTP $$; echo on; exit 6"
    with _start("sh", "-c", script, process_group=0) as process:
        pid = int(_line(process))
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert os.WSTOPSIG(status) == signal.SIGTSTP
        assert Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt"
        process.send_signal(signal.SIGCONT)
        assert _line(process) == "on"
        assert process.wait(PATIENCE) == 6


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
@pytest.mark.parametrize(("then", "status"), [("CONT", 6), ("KILL", -signal.SIGKILL)])
def test_who_stops_and_continues_the_program_need_not_know_of_softsgx(
    number: signal.Signals, then: str, status: int
) -> None:
    script = f"echo $$; kill -{number.name[3:]} $$; echo on; exit 6"
    with _start("sh", "-c", script, process_group=0) as process:
        pid = int(_line(process))
        _, stopped = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WSTOPSIG(stopped) == number
        os.kill(pid, getattr(signal, f"SIG{then}"))
        assert process.wait(PATIENCE) == status


def test_a_program_that_is_continued_at_once_leaves_nothing_stopped() -> None:
    script = (
        "(while kill -CONT $$ 2>&-; do :; done) & "
        "for i in 1 2 3 4 5 6 7 8; do kill -TSTP $$; kill -STOP $$; done"
    )
    with _start("sh", "-c", script, process_group=0) as process:
        assert process.wait(PATIENCE) == 0


CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("streams", CLOSED)
def test_closed_standard_streams_stay_closed(streams: str, tmp_path: Path) -> None:
    program = "import os; print(os.listdir('/proc/self/fd'), file=open('fds', 'w'))"
    shown = []
    for prefix in ([], RUN):
        argv = " ".join(map(shlex.quote, [*prefix, sys.executable, "-c", program]))
        done = subprocess.run(
            ["sh", "-c", f"{argv} {streams}"], cwd=tmp_path, check=False, timeout=PATIENCE
        )
        shown.append((done.returncode, (tmp_path / "fds").read_text()))
    assert shown[0] == shown[1]
    assert subprocess.run(
        ["sh", "-c", f"{shlex.join(RUN)} sh -c 'exit 5' {streams}"], check=False, timeout=PATIENCE
    ).returncode == 5  # fmt: skip


def test_a_mistake_with_standard_error_closed_is_told_to_nobody(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(RUN)} {tmp_path}/nothing 2>&-"],
        check=False, timeout=PATIENCE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")


ENVIRONMENTS = [
    [b"A=1"], [b"LC_ALL=C", b"B=\xff\xfe"], [b"LC_CTYPE=POSIX"], [], [b"X", b"A=1", b"A=2", b""]
]  # fmt: skip


@pytest.mark.parametrize("strings", ENVIRONMENTS)
def test_environment_and_arguments_arrive_byte_for_byte(strings: list[bytes]) -> None:
    libc = ctypes.CDLL(None)
    program = [b"/bin/cat", b"/proc/self/cmdline", b"/proc/self/environ", b"\xff\xfe", b"", b"e"]
    shown = []
    for prefix in ([], [os.fsencode(a) for a in RUN]):
        argv = [*prefix, *program]
        out_r, out_w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(out_w, 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            vectors = [(ctypes.c_char_p * (len(v) + 1))(*v, None) for v in (argv, strings)]
            libc.execve(argv[0], *vectors)
            os._exit(99)
        os.close(out_w)
        with os.fdopen(out_r, "rb") as f:
            shown.append(f.read())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 99
    expected = b"".join(text + b"\0" for text in (*program, *strings))
    assert shown == [expected, expected]


def test_limits_umask_niceness_and_mask_are_the_callers() -> None:
    look = "ulimit -a; ulimit -Ha; umask; nice; grep Sig[BIC] /proc/self/status"
    script = "ulimit -Sn 77; ulimit -Sf 4000; umask 031; trap '' INT QUIT USR1 CHLD;"
    shown = [
        subprocess.run(
            ["nice", "-n", "3", "bash", "-c", script + shlex.join([*prefix, "bash", "-c", look])],
            capture_output=True, text=True, timeout=PATIENCE, check=True,
        ).stdout
        for prefix in ([], RUN)
    ]  # fmt: skip
    assert shown[0] == shown[1]


def test_more_enclaves_than_the_programs_limit_of_descriptors(
    softsgx: Softsgx, guest: Callable[[str], Path]
) -> None:
    script = f'ulimit -Sn 24; exec "$@" {guest("manyenclaves")} 64'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *RUN],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "64\n", "")


@pytest.mark.parametrize("how", ["group", "exec", "kill", "fault", "shared"])
def test_threads_may_end_at_any_stop(
    how: str, softsgx: Softsgx, guest: Callable[[str], Path]
) -> None:
    done = softsgx("--wait", "--", guest("ends"), how, "40")
    assert (done.stdout, done.returncode) == ("40\n", 0)
    # Those that end by a fault inside are told of as a crash each; "bug" never is.
    assert how == "fault" or done.stderr == ""
    assert "bug" not in done.stderr


def test_threads_may_end_on_their_way_over_a_change_of_protection(
    softsgx: Softsgx, guest: Callable[[str], Path]
) -> None:
    done = softsgx("--wait", "--", guest("endaccepts"), "40")
    assert (done.stdout, done.returncode, done.stderr) == ("ok ended\n", 0, "")


def test_a_cpuid_in_a_handler_changes_no_handler(
    softsgx: Softsgx, guest: Callable[[str], Path]
) -> None:
    done = softsgx("--", guest("handlers"), "nosgx")
    assert (done.returncode, done.stdout.count("ok "), done.stderr) == (0, 10, "")


def test_ignored_signals_are_those_that_the_caller_ignores() -> None:
    shown = [
        subprocess.run(
            [*prefix, "grep", "Sig[IB]", "/proc/self/status"],
            capture_output=True, text=True, timeout=PATIENCE, check=True,
        ).stdout
        for prefix in ([], RUN)
    ]  # fmt: skip
    assert shown[0] == shown[1]


_NO_VDSO = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.getauxval.restype = ctypes.c_ulong
at = libc.getauxval(33)  # AT_SYSINFO_EHDR
libc.mprotect(ctypes.c_void_p(at), 4096, 0)
open("/dev/sgx_enclave", "r+b", 0)
"""


def test_a_vdso_that_nothing_can_be_executed_of_is_told() -> None:
    command = [*RUN, sys.executable, "-c", _NO_VDSO]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert "cannot execute its vDSO" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_who_has_broken_its_vdso_ends_alone() -> None:
    script = f"""
import os, signal
child = os.fork()
if not child:
    exec({_NO_VDSO!r})
assert os.waitpid(child, 0)[1] == signal.SIGKILL
os.listdir("/dev")
open("/dev/sgx_enclave", "r+b", 0)
"""
    command = [*RUN, sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot execute its vDSO" in done.stderr
    assert len(done.stderr.splitlines()) == 1
