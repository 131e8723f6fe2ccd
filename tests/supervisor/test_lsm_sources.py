"""What a source was when it became executable, as the kernel's hooks see it."""

from __future__ import annotations

import ctypes.util
import re
from collections.abc import Callable
from errno import EACCES
from pathlib import Path

import pytest

from tests.command import Softsgx
from tests.truthrows import TRUTH, read

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None or ctypes.util.find_library("selinux") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1",
)

Guest = Callable[[str], Path]
LOADER = "system_u:system_r:loader_t:s0"


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[str | Path, ...]:
    """Options: the policy under which the kernel's answers were recorded, its loader_t."""
    contexts, file = tmp_path / "contexts", tmp_path / "data"
    file.write_bytes(bytes(8192))
    contexts.write_text(
        f"{re.escape(str(file))}\tsystem_u:object_r:data_t:s0\n"
        "/dev/sgx_enclave\tsystem_u:object_r:sgx_enclave_device_t:s0\n"
    )
    policy = TRUTH / "selinux-tiny.cil"
    return "--selinux", policy, "--context", LOADER, "--file-contexts", contexts


def test_sources_are_what_the_kernel_took_them_for(
    tiny: tuple[str | Path, ...], guest: Guest, softsgx: Softsgx, tmp_path: Path
) -> None:
    """Each answer is that of the recorded mmap or mprotect, or ours of adding from it."""
    rows = {
        (row.kind, row.mode, row.sharing, row.touch): row
        for row in read("selinux-tiny").rows
        if row.domain == LOADER
    }
    done = softsgx(*tiny, "--", guest("sources_truth"), tmp_path / "data")
    assert done.returncode == 0, done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 11 * 2 * 18
    wrong, denied = [], 0
    for kind, mode, sharing, touch, first, then, answer in lines:
        row = rows[kind, mode, sharing, touch == "t1"]
        told = row.mmap[int(first)]
        if told == "." and then != "-":
            told = row.mprotect[int(first)][int(then)]
        elif told != "." and not int(first) & 4:
            # Refused when mapped without X: nothing that a source is asked about.
            continue
        denied += told == "A"
        if {".": 0, "A": EACCES}[told] != int(answer):
            wrong.append((kind, mode, sharing, touch, first, then, answer, told))
    assert wrong == []
    assert denied > 20


def test_the_past_of_a_source_counts(
    tiny: tuple[str | Path, ...], guest: Guest, softsgx: Softsgx, tmp_path: Path
) -> None:
    """loader_t has execmem, and not execheap, execstack and execmod: the kernel's audit lines."""
    audit = tmp_path / "audit"
    done = softsgx(*tiny, "--audit", audit, "--", guest("sources_past"), tmp_path / "data")
    assert done.returncode == 0, done.stdout + done.stderr
    answers = dict(line.split() for line in done.stdout.splitlines())
    denied = {
        "heap_middle": "execheap",
        "heap_implied": "execheap",
        "stack": "execstack",
        "thread_stack": "execstack",
        "file_other_page": "execmod",
        "file_moved": "execmod",
        "file_inherited": "execmod",
        "file_before_hole": "execmod",
    }
    granted = ("implied", "shared_segment", "file_anew", "file_rwx_then_rx", "heap_ragged")
    assert answers == {name: str(EACCES) for name in denied} | dict.fromkeys(granted, "0")
    logged = re.findall(r"denied  \{ (.*) \} for.* tclass=(\w+)", audit.read_text())
    classes = {"execmod": "file"}
    assert logged == [(perm, classes.get(perm, "process")) for perm in denied.values()]
    # The kernel's own lines name the same.
    truth = {
        perm for line in read("selinux-tiny").audit
        if line.fields["scontext"] == LOADER for perm in line.perms
    }  # fmt: skip
    assert set(denied.values()) <= truth


def test_without_a_module_nothing_stops(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(8192))
    done = softsgx("--", guest("sources_past"), tmp_path / "data")
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"0"}
