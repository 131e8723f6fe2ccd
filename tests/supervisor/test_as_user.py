"""Programs of a user's, by a softsgx that is that user's, too: what root may read it may not.

Where the tests run as root a user is made who reaches what they need: in a mount namespace of its
own, where folders that only root may enter hold that and nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cache import ROOT
from tests.command import PATIENCE

_NOBODY = 65534
_AS_USER = f"""\
import os, shutil, stat, subprocess, sys, tempfile
from pathlib import Path
def mount(*args): subprocess.run(["mount", *args], check=True)
def closed(path):
    for at in [*reversed(path.parents), path]:
        if not at.stat().st_mode & stat.S_IXOTH: return at
split = sys.argv.index("--")
needed = [Path(name).resolve() for name in sys.argv[1:split]]
held = []
for path in needed:
    if closed(path):
        held.append((path, tempfile.mkdtemp(dir="/dev/shm")))
        mount("--bind", path, held[-1][1])
for folder in {{closed(path) for path, _ in held}}:
    mount("-t", "tmpfs", "-o", "mode=755", "none", folder)
for path, at in held:
    path.mkdir(parents=True, exist_ok=True)
    mount("--bind", at, path)
    mount("--make-private", at)
    subprocess.run(["umount", at], check=True)
    os.rmdir(at)
os.setgroups([])
os.setresgid({_NOBODY}, {_NOBODY}, {_NOBODY})
os.setresuid({_NOBODY}, {_NOBODY}, {_NOBODY})
os.environ["SOFTSGX_STATE_DIR"] = state = tempfile.mkdtemp(dir="/tmp")
done = subprocess.run(sys.argv[split + 1:], cwd="/")
shutil.rmtree(state)
sys.exit(done.returncode)
"""


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "softsgx", *map(str, command)]
    if os.getuid() == 0:
        needed = [sys.base_prefix, sys.prefix, str(ROOT)]
        unshare = ["unshare", "--mount", "--propagation", "private"]
        if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no mount namespace can be made here: run the tests as a user")
        argv = [*unshare, sys.executable, "-c", _AS_USER, *needed, "--", *argv]
    env = os.environ | {"HOME": "/nonexistent"}
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=PATIENCE, env=env
    )


def test_who_runs_it_is_a_user() -> None:
    done = _run("run", "--", "/usr/bin/id", "-u")
    assert (done.stdout, done.stderr) == (f"{os.getuid() or _NOBODY}\n", "")


@pytest.mark.parametrize(
    "name", ["threads", "signals", "nested", "share", "opens", "peeks", "ioctls", "sgx2"]
)
def test_guest(name: str, guest: Callable[[str], Path]) -> None:
    done = _run("run", "--", guest(name), *(["200"] if name == "signals" else []))
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert lines, done.stderr
    assert all(line.startswith("ok ") for line in lines), done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
