"""What softsgx looks at for itself leaves no trace that a program can see."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Softsgx

# umount2(2): with MNT_EXPIRE the first marks, and the second unmounts what nobody used in between.
_EXPIRE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
path = b"mnt"
os.chdir(sys.argv[1])
if libc.mount(b"none", path, b"tmpfs", 0, None):
    sys.exit(77)
for _ in range(3):
    print(libc.umount2(path, 4), ctypes.get_errno())
"""


@pytest.mark.parametrize("options", [(), ("--exact",)])
def test_a_mount_expires(softsgx: Softsgx, tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "mnt").mkdir()
    program = ["unshare", "-rm", sys.executable, "-c", _EXPIRE, str(tmp_path)]
    bare = subprocess.run(program, capture_output=True, text=True, check=False)
    if bare.returncode:
        pytest.skip("no mounts in a namespace of one's own: force it as root")
    done = softsgx(*options, "--", *program)
    assert (done.returncode, done.stdout) == (0, bare.stdout)


# inotify(7) tells who watches a folder of each file that is opened, read from or closed there.
_WATCHED = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None)
folder, program, library = sys.argv[1:]
watch = libc.inotify_init1(os.O_NONBLOCK)
libc.inotify_add_watch(watch, os.fsencode(folder), 0x39)  # IN_OPEN, IN_ACCESS, IN_CLOSE
for _ in range(2):
    subprocess.run([os.path.join(folder, program)], check=True)
    print(os.read(watch, 1 << 16).hex())
ctypes.CDLL(os.path.join(folder, library))
print(os.read(watch, 1 << 16).hex())
"""

# fanotify(7) asks who watches a file whether it may be opened, who looks at its name first.
_ASKED = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
asked = libc.fanotify_init(4, 0)  # FAN_CLASS_CONTENT
if libc.fanotify_mark(asked, 1, ctypes.c_uint64(0x50000), -100, os.fsencode(sys.argv[1])):
    sys.exit(77)  # FAN_OPEN_PERM, FAN_OPEN_EXEC_PERM
pid = os.fork()
if not pid:
    os.execv(sys.argv[1], sys.argv[1:])
for _ in range(2):
    mask, fd = struct.unpack_from("QI", os.read(asked, 24), 8)
    print(mask, os.readlink(f"/proc/self/fd/{fd}"))
    os.write(asked, struct.pack("II", fd, 1))
os.close(asked)
print(os.waitpid(pid, 0)[1])
"""


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A program of its own whose code has no CPUID: what has is opened when it is first met."""
    if b"\x0f\xa2" in Path("/bin/true").read_bytes():
        pytest.skip("what is /bin/true here has the bytes of CPUID")
    (tmp_path / "watched").mkdir()
    return Path(shutil.copy("/bin/true", tmp_path / "watched"))


def test_nobody_hears_of_files_that_are_looked_at(
    softsgx: Softsgx, plain: Path, guest: Callable[[str], Path]
) -> None:
    library = Path(shutil.copy(guest("cpuid_lib.so"), plain.parent))
    program = [sys.executable, "-c", _WATCHED, str(plain.parent), plain.name, library.name]
    bare = subprocess.run(program, capture_output=True, text=True, check=True)
    done = softsgx("--", *program)
    assert (done.returncode, done.stdout) == (0, bare.stdout)


def test_who_is_asked_about_a_program_is_asked_once(softsgx: Softsgx, plain: Path) -> None:
    program = [sys.executable, "-c", _ASKED, str(plain)]
    bare = subprocess.run(program, capture_output=True, text=True, check=False)
    if bare.returncode:
        pytest.skip("no permission events here: force it as root, on a kernel that has them")
    done = softsgx("--", *program)
    assert (done.returncode, done.stdout) == (0, bare.stdout)


def test_what_is_shown_in_proc_is_nobodys_to_write(softsgx: Softsgx) -> None:
    program = ["sh", "-c", "stat -L -c %A /proc/self/fd/3 3< /proc/cpuinfo"]
    bare = subprocess.run(program, capture_output=True, text=True, check=True)
    done = softsgx("--", *program)
    assert (done.returncode, done.stdout) == (0, bare.stdout)


_SAME = """
import os, sys

def told(s):
    return s.st_dev, s.st_ino, s.st_mode, s.st_nlink, s.st_size, s.st_blocks, s.st_blksize

# Often, since an instruction that asks often does so by code of softsgx's.
for _ in range(20):
    by_name = os.stat(sys.argv[1])
    fd = os.open(sys.argv[1], os.O_RDONLY)
    assert told(os.fstat(fd)) == told(by_name)
    assert os.read(fd, 1)
    os.close(fd)
    fd = os.open("/etc/passwd", os.O_RDONLY)  # the same number
    assert os.path.samestat(os.fstat(fd), os.stat("/etc/passwd"))
    os.close(fd)
child = os.fork()
if not child:
    fd = os.open(sys.argv[1], os.O_RDONLY)
    os._exit(told(os.fstat(fd)) != told(os.stat(sys.argv[1])))
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("options", [(), ("--exact",)])
@pytest.mark.parametrize("name", ["/proc/cpuinfo", "/proc/misc"])
def test_what_is_shown_is_the_file_that_its_name_told_of(
    softsgx: Softsgx, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    done = softsgx(*options, "--", sys.executable, "-c", _SAME, name)
    assert (done.returncode, done.stderr) == (0, "")
    copy = tmp_path / "copy"
    for _ in range(2):  # by code that has not asked before, and that has
        done = softsgx(*options, "--", "cp", name, str(copy))
        assert (done.returncode, done.stderr) == (0, "")
        shown = copy.read_text()
        assert "sgx_enclave" in shown if name == "/proc/misc" else " sgx_lc" in shown
