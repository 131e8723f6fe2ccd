"""What a container, Yama or a tracer forbids: softsgx does without it, or names the option."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from softsgx.host.forbidden import why_no_ptrace
from softsgx.uapi import syscalls as nr
from softsgx.uapi.syscalls import SYSCALLS
from tests.cache import ROOT
from tests.command import PATIENCE, Softsgx

_DATA = ROOT / "tests" / "data" / "seccomp"
_NUMBERS = {row.name: number for number, row in SYSCALLS.items()}
_LD, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO, _X86_64 = 0x7FFF0000, 0x00050000, 0xC000003E

_RUN = """
import os, sys
from tests.cache import ROOT
from softsgx.host import ptrace
ptrace.prctl(38, 1)
assert ptrace.seccomp_filter(bytes.fromhex(sys.argv[1])) == 0
os.execv(sys.executable, [sys.executable, "-m", "softsgx", *sys.argv[2:]])
"""


def _filter(
    forbidden: Mapping[int, int], newest: int = 1 << 30, unknown: int = errno.EPERM
) -> bytes:
    """A program: these calls give an errno, and all from ``newest`` on ``unknown``."""
    code = [(_LD, 0, 0, 4), (_JEQ, 1, 0, _X86_64), (_RET, 0, 0, _ALLOW), (_LD, 0, 0, 0)]
    code += [(_JGE, 0, 1, newest), (_RET, 0, 0, _ERRNO | unknown)]
    for number, error in forbidden.items():
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ERRNO | error)]
    code += [(_RET, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", op, yes, no, k) for op, yes, no, k in code)


def _confined(program: bytes, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _RUN, program.hex(), *args],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def _docker() -> bytes:
    names = (_DATA / "container-default.txt").read_text().split()
    missing = [name for name in names if name not in _NUMBERS]
    assert missing == []
    errors = {_NUMBERS[name]: errno.EPERM for name in names}
    return _filter(errors | {nr.NR_clone3: errno.ENOSYS}, 451)


def _podman() -> bytes:
    lines = (_DATA / "podman-default.txt").read_text().splitlines()
    errors = {name: getattr(errno, error) for name, error in map(str.split, lines)}
    assert not errors.keys() - _NUMBERS
    return _filter({_NUMBERS[name]: e for name, e in errors.items()}, 470, errno.ENOSYS)


@pytest.mark.parametrize("profile", [_docker, _podman])
@pytest.mark.parametrize("name", ["native", "masks", "share", "manyenclaves", "threads"])
def test_a_containers_default_profile_is_enough(
    name: str, profile: Callable[[], bytes], guest: Callable[[str], Path]
) -> None:
    done = _confined(profile(), "run", "--", str(guest(name)))
    assert done.returncode == 0
    # One of its processes ends by a fault inside, and that is told.
    assert not done.stderr or (name == "masks" and "crash in an enclave" in done.stderr)
    assert "not ok" not in done.stdout


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
@pytest.mark.parametrize(
    ("call", "option"),
    [
        ("ptrace", "--cap-add SYS_PTRACE"),
        ("process_vm_readv", "--cap-add SYS_PTRACE"),
        ("process_vm_writev", "--cap-add SYS_PTRACE"),
        ("seccomp", "--security-opt seccomp=unconfined"),
    ],
)
def test_what_cannot_be_done_without_is_named_with_its_option(
    call: str, option: str, error: int
) -> None:
    done = _confined(_filter({_NUMBERS[call]: error}), "run", "--", "true")
    assert done.returncode == 2
    assert option in done.stderr
    assert done.stderr.count("\n") == 1
    assert "bug" not in done.stderr


# What a start and an enclave take of the system, beside what every program does.
_USED = [
    "arch_prctl", "fchmod", "flock", "getrandom", "memfd_create", "memfd_secret", "pidfd_getfd",
    "pidfd_open", "prctl", "prlimit64", "process_vm_readv", "process_vm_writev", "ptrace",
    "sched_getaffinity", "sched_setaffinity", "seccomp", "socketpair", "sendmsg", "recvmsg",
    "fallocate", "ftruncate", "tgkill", "waitid", "rt_sigtimedwait", "mkdir",
]  # fmt: skip


@pytest.mark.parametrize("call", _USED)
def test_nothing_that_is_forbidden_is_called_a_bug(call: str, guest: Callable[[str], Path]) -> None:
    done = _confined(
        _filter({_NUMBERS[call]: errno.EPERM}), "run", "--", str(guest("manyenclaves")), "1"
    )
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr


def test_no_user_namespace_is_needed(guest: Callable[[str], Path]) -> None:
    """Where AppArmor restricts them (apparmor_restrict_unprivileged_userns) a run is as ever.

    The guest maps with several threads; the kernel answers EPERM to unshare and setns, as then.
    """
    forbidden = _filter({nr.NR_unshare: errno.EPERM, nr.NR_setns: errno.EPERM})
    done = _confined(forbidden, "run", "--", str(guest("attacks")), "race_thread")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_tracer_that_is_there_already_is_named(tmp_path: Path) -> None:
    if subprocess.run(["strace", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no strace that works here; install it to force this")
    argv = [sys.executable, "-m", "softsgx", "run", "--", "sh", "-c", "exit 4"]
    log = ["-o", str(tmp_path / "log")]
    followed = subprocess.run(
        ["strace", "-f", *log, *argv], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert followed.returncode == 2
    assert "traces this one and its children" in followed.stderr
    assert "softsgx run -v" in followed.stderr
    assert followed.stderr.count("\n") == 1
    alone = subprocess.run(["strace", *log, *argv], timeout=PATIENCE, check=False)
    assert alone.returncode == 4


@pytest.mark.parametrize(
    ("argv", "option"),
    [
        (["strace", "true"], "-v"),
        (["gdb", "-nx", "-batch", "-ex", "run", "-ex", "kill", "/bin/true"], "--gdb"),
    ],
)
def test_a_tracer_among_the_programs_is_told_what_takes_its_place(
    argv: list[str], option: str, softsgx: Softsgx
) -> None:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"no {argv[0]} here; install it to force this")
    done = softsgx("--", *argv)
    told = [line for line in done.stderr.splitlines() if line.startswith("softsgx: ")]
    assert len(told) == 1
    assert told[0].startswith(f"softsgx: {argv[0]} cannot trace what softsgx run traces: ")
    assert f"softsgx run {option} " in told[0]
    assert "softsgx: " not in softsgx("--quiet", "--", *argv).stderr


_LEAKS = """
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
static void *volatile kept;
static void *waits(void *unused) { for (;;) pause(); return unused; }
int main(void)
{
    pthread_t t;
    for (int i = 0; i < 4; i++)
        pthread_create(&t, NULL, waits, NULL);
    kept = malloc(10);
    return kept == malloc(23);
}
"""


def test_leaks_are_found_where_threads_stand_for_who_looks(
    tmp_path: Path, softsgx: Softsgx
) -> None:
    source, program = tmp_path / "leaks.c", tmp_path / "leaks"
    source.write_text(_LEAKS)
    built = subprocess.run(
        ["gcc", "-pthread", "-fsanitize=leak", source, "-o", program], capture_output=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    alone = None if built.returncode else subprocess.run(
        [program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )  # fmt: skip
    if alone is None or "SUMMARY: LeakSanitizer" not in alone.stderr:
        pytest.skip("no LeakSanitizer that works here; install gcc's liblsan to force this")
    done = softsgx("--", str(program))
    assert "SUMMARY: LeakSanitizer: 23 byte(s) leaked in 1 allocation(s)." in done.stderr
    assert done.returncode == alone.returncode
    assert "softsgx" not in done.stderr


@pytest.mark.parametrize(("scope", "word"), [(2, "root only"), (3, "next boot")])
def test_yamas_setting_is_named(scope: int, word: str, tmp_path: Path) -> None:
    yama = tmp_path / "sys" / "kernel" / "yama"
    yama.mkdir(parents=True)
    (yama / "ptrace_scope").write_text(f"{scope}\n")
    text = why_no_ptrace(None, str(tmp_path))
    assert f"ptrace_scope is {scope}" in text
    assert word in text


def test_a_security_module_is_suspected_last(tmp_path: Path) -> None:
    assert "security module" in why_no_ptrace(None, str(tmp_path))


def test_valgrind_runs(tmp_path: Path) -> None:
    if not os.access("/usr/bin/valgrind", os.X_OK):
        pytest.skip("no valgrind here; install it to force this")
    done = subprocess.run(
        [sys.executable, "-m", "softsgx", "run", "--", "valgrind", "-q", "/bin/sh", "-c", "exit 3"],
        capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, b"")


def test_a_translator_that_stumbles_is_told_of_the_option() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "softsgx", "run", "--", "sh", "-c", "kill -ILL $$"],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == -4
    assert "--no-cpuid" in done.stderr
