"""What softsgx looks at for itself leaves no trace that a program can see."""

from __future__ import annotations

import subprocess
import sys
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
