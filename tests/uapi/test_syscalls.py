"""The table of all system calls against the kernel that runs and Debian's newest kernel source."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from errno import ENOSYS
from pathlib import Path

import pytest

from softsgx.report.calls import page
from softsgx.uapi.syscalls import FIRST_UNKNOWN, SYSCALLS
from tests.cache import ROOT, cache_directory, locked

X32_NUMBERS = range(512, 548)
TABLE = "arch/x86/entry/syscalls/syscall_64.tbl"


def newest_source() -> Path | None:
    """Debian's newest kernel source, by version."""

    def version(path: Path) -> list[int]:
        return [int(n) for n in re.findall(r"\d+", path.name)]

    return max(Path("/usr/src").glob("linux-source-*.tar.xz"), key=version, default=None)


def kernel_table() -> dict[int, str]:
    """The numbers and names of syscall_64.tbl that are for 64-bit programs."""
    source = newest_source()
    assert source is not None
    directory = cache_directory("syscalls")
    kept = directory / f"{source.name}.tbl"
    with locked(directory):
        if not kept.exists():
            argv = ["tar", "-xJOf", str(source), "--occurrence=1", "--wildcards", f"*/{TABLE}"]
            text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
            kept.write_text(text)
    rows = [line.split() for line in kept.read_text().splitlines() if line[:1].isdigit()]
    return {int(row[0]): row[2] for row in rows if row[1] in {"common", "64"}}


@pytest.mark.skipif(newest_source() is None, reason="apt-get install linux-source-6.12 to run it")
def test_the_table_is_that_of_debians_newest_kernel() -> None:
    theirs = kernel_table()
    assert len(theirs) > 350
    ours = {nr: row.name for nr, row in SYSCALLS.items()}
    assert theirs.items() <= ours.items()
    # What is ours alone came later, at the end or beside uretprobe.
    assert {nr for nr in ours if nr not in theirs and nr < max(theirs)} <= {335, 336}


def test_the_running_kernel_has_no_call_without_a_row() -> None:
    """A call of next year's kernel is missed here: it needs a row."""
    libc = ctypes.CDLL(None, use_errno=True)
    bad = [ctypes.c_long(-1)] * 6
    known = []
    for number in range(FIRST_UNKNOWN, 1024):
        if number in X32_NUMBERS:
            continue
        ctypes.set_errno(0)
        if libc.syscall(ctypes.c_long(number), *bad) != -1 or ctypes.get_errno() != ENOSYS:
            known.append(number)
    assert known == [], f"the kernel {os.uname().release} knows calls without a row"


def test_arguments_are_of_known_kinds() -> None:
    for row in SYSCALLS.values():
        kinds = [arg.kind for arg in row.args]
        assert len(kinds) <= 6
        assert set(kinds) <= {
            "", "fd", "pidfd", "dir", "path", "sockaddr", "addr", "len", "word", "pid"
        }, row  # fmt: skip
        assert kinds.count("addr") == kinds.count("len"), row
        for index in row.of_kind("dir"):
            assert kinds[index + 1] == "path", row
        # A descriptor always has an answer, a path too, a range too.
        assert (row.file is not None) == bool(row.of_kind("fd", "pidfd")), row
        assert (row.path is not None) == bool(row.of_kind("path", "sockaddr")), row
        assert row.vma is not None or not row.of_kind("addr"), row


def test_the_page_is_what_the_table_says() -> None:
    assert (ROOT / "docs" / "syscalls.md").read_text() == page(), (
        "to mend it: .venv/bin/python tools/syscalls_page.py > docs/syscalls.md"
    )
