"""Who opens the file of an enclave's pages for writing ends its holder, and waits for that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.command import PATIENCE

_HOLDS = """\
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
from softsgx.host import lease
from softsgx.host.memfd import new_memory, reader
fd = new_memory("pages")
os.ftruncate(fd, 4096)
lease.keep(fd)
with reader(fd) as reads:
    os.write(1, b"%d %d" % (fd, os.pread(reads, 1, 0)[0]))
    while True:
        signal.pause()
"""


def test_who_opens_it_ends_the_holder() -> None:
    with open("/proc/sys/fs/leases-enable") as file:
        if file.read().strip() == "0":
            pytest.skip("no leases here: sysctl fs.leases-enable=1")
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    watch = threading.Timer(PATIENCE, holder.kill)
    watch.start()
    with holder:
        try:
            fd = os.read(holder.stdout.fileno(), 100).split()[0].decode()
            name = f"/proc/{holder.pid}/fd/{fd}"
            os.kill(holder.pid, signal.SIGIO)  # no open, and nobody's end
            os.chmod(name, 0o666)
            with open(name, "rb") as reads:
                assert reads.read(1) == b"\0"
            assert holder.poll() is None
            with pytest.raises(BlockingIOError):
                os.open(name, os.O_RDWR | os.O_NONBLOCK)
            assert holder.wait() == -signal.SIGKILL
            told = holder.stderr.read()
        finally:
            watch.cancel()
            holder.kill()
    assert told.count("\n") == 1
    assert "opens the file of an enclave's pages" in told
