"""Public bug reports of SGX's loaders and drivers, reduced: what was right then is right here.

tests/guests/reports.c has those that are a few calls, each check named after its report; here
are those that take another way to run a program. docs/held-against.md lists them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests.command import PATIENCE, Softsgx
from tests.supervisor.test_guests import _assert_all_ok

Guest = Callable[[str], Path]


@pytest.fixture(scope="module")
def program(guest: Guest) -> Path:
    return guest("reports")


@pytest.mark.parametrize("options", [[], ["--exact"]], ids=["", "exact"])
def test_reports(options: list[str], program: Path, softsgx: Softsgx) -> None:
    _assert_all_ok(softsgx(*options, "--", program), 68)


@pytest.mark.parametrize("options", [[], ["--exact"]], ids=["", "exact"])
def test_more_reports(options: list[str], guest: Guest, softsgx: Softsgx) -> None:
    _assert_all_ok(softsgx(*options, "--", guest("destroyed")), 30)


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        ("0600", "EACCES"),  # gramine 1140: EACCES was told as ENOENT
        ("0660", "EACCES"),  # gramine 224, intel 996: the user is not in the group
        ("0666", ""),
    ],
)
def test_who_may_open_the_node(mode: str, answer: str, softsgx: Softsgx) -> None:
    code = (
        "import errno, os\n"
        "if not os.getuid():\n"
        "    os.setgroups([]), os.setresgid(*[65534] * 3), os.setresuid(*[65534] * 3)\n"
        "try: os.open('/dev/sgx_enclave', os.O_RDWR)\n"
        "except OSError as e: print(errno.errorcode[e.errno])"
    )
    done = softsgx("--dev-mode", mode, "--dev-owner", "0", "--", sys.executable, "-c", code)
    assert done.stdout.strip() == answer, done.stderr


MAPS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
fd = os.open("/dev/sgx_enclave", os.O_RDWR)
for prot in (3, 5):
    at = libc.mmap(None, ctypes.c_size_t(4096), prot, 1, fd, ctypes.c_long(0))
    print(0 if at != 2**64 - 1 else ctypes.get_errno())
at = libc.mmap(None, ctypes.c_size_t(4096), 3, 1, fd, ctypes.c_long(0))
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
print(0 if not libc.mprotect(at, 4096, 5) else ctypes.get_errno())
"""


def test_a_dev_that_is_mounted_noexec(softsgx: Softsgx) -> None:
    """edp 220, graphene 2437: EPERM of mmap, and EACCES of mprotect (no VM_MAYEXEC)."""
    done = softsgx("--dev-noexec", "--", sys.executable, "-c", MAPS)
    assert done.stdout.split() == ["0", "1", "13"], done.stderr


def test_the_service_is_seen_by_who_looks_for_its_socket(softsgx: Softsgx) -> None:
    """gsc 99: "AESMD installed: false"; its check is whether the file is there."""
    script = "test -S /var/run/aesmd/aesm.socket && test -w /run/aesmd/aesm.socket"
    done = softsgx("--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr


def test_a_core_dump_has_nothing_of_an_enclave(
    program: Path, softsgx: Softsgx, tmp_path: Path
) -> None:
    """intel 147: a debugger finds nothing inside in a core; an enclave's VMAs are VM_DONTDUMP."""
    if Path("/proc/sys/kernel/core_pattern").read_text() not in ("core\n", "core.%p\n"):
        pytest.skip("cores go elsewhere; sysctl kernel.core_pattern=core forces this")
    script = 'ulimit -c unlimited && exec "$@"'
    done = softsgx("--quiet", "--", "sh", "-c", script, "sh", program, "core", cwd=tmp_path)
    assert done.returncode == -signal.SIGABRT, done.stderr
    start, end = (int(word, 16) for word in done.stdout.split())
    (core,) = tmp_path.glob("core*")
    with core.open("rb") as file:
        loads = [s.header for s in ELFFile(file).iter_segments("PT_LOAD")]
    inside = [s for s in loads if start <= s.p_vaddr < end]
    assert inside
    assert all(not s.p_filesz for s in inside)


# A limit that who runs softsgx cannot raise.
_LOWERED = ["setpriv", "--bounding-set", "-sys_resource"] if not os.getuid() else []


@pytest.mark.parametrize(("limit", "status"), [("0", 2), ("65536", 1)])
def test_a_limit_of_the_size_of_files_is_named(limit: str, status: int, program: Path) -> None:
    """An enclave's memory is a file here: on Linux the limit is in nobody's way."""
    done = subprocess.run(
        [
            *(*_LOWERED, "prlimit", f"--fsize={limit}"),
            *(sys.executable, "-m", "softsgx", "run", "--", program),
        ],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    told = [line for line in done.stderr.splitlines() if line.startswith("softsgx:")]
    assert done.returncode == status, done.stderr
    assert told
    assert all("ulimit -f" in line and "bug" not in line for line in told)
