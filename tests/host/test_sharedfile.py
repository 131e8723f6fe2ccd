"""Memory that a process and softsgx have."""

from __future__ import annotations

import os

import pytest

from softsgx.host.sharedfile import SharedFile


@pytest.mark.parametrize("length", [0, 4096, 16384])
def test_nobody_changes_how_long_it_is(length: int) -> None:
    """Who reads behind a file's end gets SIGBUS (mmap(2)), which would be softsgx."""
    shared = SharedFile("shared", 8192)
    with pytest.raises(PermissionError):
        os.ftruncate(shared.fd, length)
    shared.close()


def test_what_one_writes_the_other_reads() -> None:
    shared = SharedFile("shared", 8192)
    os.pwrite(shared.fd, (7 << 32 | 5).to_bytes(8, "little"), 4096)
    assert (shared.words[512], shared.halves[1024], shared.halves[1025]) == (7 << 32 | 5, 5, 7)
    shared.mapped()
    assert shared.fd == -1
    shared.close()
