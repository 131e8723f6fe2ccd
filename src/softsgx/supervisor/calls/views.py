"""What /proc and /sys tell of the device: a file of our own is opened in place of theirs.

The real mappings of an enclave are of a memfd, page-wise apart; /proc/PID/maps and smaps are
read through and show the VMAs of Linux's character device instead. /proc/cpuinfo and /proc/misc are
what they are with SGX. Such a file is as of its opening.
"""

from __future__ import annotations

import os
import re

from softsgx.supervisor.state.node import Node, Shown
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import filters
from softsgx.supervisor.stopped.answer import DONE, answered, cont, to_exit
from softsgx.supervisor.stopped.remote import calls, cancel
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["contents", "show"]

_OF_A_PROCESS = re.compile(rb"/proc/(\d+)(?:/task/\d+)?/(maps|smaps)")
_OF_ANOTHER_ROOT = re.compile(rb"(/proc/\d+/root/proc)/(?:(\d+)/)?")
_HEADER = re.compile(rb"[0-9a-f]+-[0-9a-f]+ ")
_NUMBER = re.compile(rb"(\w+:)( *\d+)")
_KEPT = (b"KernelPageSize:", b"MMUPageSize:")
# Linux, fs/proc/task_mmu.c, show_smap_vma_flags(): by the bit's number.
_VM_FLAGS = ((0, "rd"), (1, "wr"), (2, "ex"), (3, "sh"), (4, "mr"), (5, "mw"), (6, "me"), (7, "ms"))
_SPECIAL = ((10, "pf"), (14, "io"), (17, "dc"), (18, "de"), (25, "wf"), (26, "dd"))
_DONTCOPY, _WIPEONFORK = 1 << 17, 1 << 25


def contents(run: Run, path: bytes, seen: bytes) -> bytes | None:
    """What a program finds at a real path, or None where nothing of it is ours.

    seen: a path of ours to what that is from its root, with its mounts.
    """
    if path in (b"/proc/cpuinfo", b"/proc/misc"):
        if not _alike(path, seen):
            return None
        if path == b"/proc/misc":
            return _misc(run, _read(path))
        return _cpuinfo(_read(path)) if run.options.cpuid else None
    found = _OF_A_PROCESS.fullmatch(path)
    if found is None or not run.opened:
        return None
    tracee, real = _process(run, int(found[1]), path, seen)
    process = None if tracee is None else tracee.space.sgx
    if process is None or not len(process.mm) or not real:
        return None
    return b"".join(_mappings(run, process, real, found[2] == b"smaps"))


def _alike(path: bytes, seen: bytes) -> bool:
    """Whether a file of /proc or /sys is the same in another mount of it: not all are there, and
    others may be mounted over it.
    """
    try:
        return os.lstat(path).st_ino == os.lstat(seen).st_ino
    except OSError:
        return False


def _process(run: Run, number: int, path: bytes, seen: bytes) -> tuple[Tracee | None, bytes | None]:
    """Who a file of /proc/PID is about, and what is in it."""
    tracee, there = run.tracees.get(number), _OF_ANOTHER_ROOT.match(seen)
    if there is None:
        return tracee, _read(path)
    if not _alike(b"/proc/self", there[1] + b"/self"):
        return None, None
    if there[2] is None:  # /proc/self, which was found already
        return tracee, _read(path)
    # In a pid namespace of its own the numbers are others: the same mappings are of the same.
    maps = _read(there[1] + b"/" + there[2] + b"/maps")
    for tracee in list(run.tracees.values()):
        if tracee.space.sgx is not None and maps == _read(b"/proc/%d/maps" % tracee.tid):
            return tracee, _read(seen)
    return None, None


def show(run: Run, tracee: Tracee, text: bytes, flags: int, node: Node) -> Any:
    """Open a file of ours with this text in place of what the call names: a node."""
    whole = os.memfd_create("softsgx-view", os.MFD_CLOEXEC)
    os.write(whole, text)
    os.fchmod(whole, node.mode)
    kept = os.O_RDONLY | os.O_CLOEXEC | flags & os.O_NONBLOCK
    own = os.open(f"/proc/self/fd/{whole}", kept)
    os.close(whole)
    there = -1
    # What RESOLVE_* allow is the kernel's to say.
    if run.view[ORIG_RAX] == nr.NR_openat2 and isinstance(node, Shown):
        there = to_exit(run, tracee)
        if there < 0:
            os.close(own)
            cont(run, tracee)
            return DONE
    else:
        cancel(run, tracee)
    with calls(run, tracee) as remote:
        if there >= 0:
            remote(nr.NR_close, there)
        fd = remote.give(own, cloexec=bool(flags & os.O_CLOEXEC))
        asked = tracee.space.views
        if asked is not None and fd >= 0 and isinstance(node, Shown):  # cp compares the two
            s = os.fstat(own)
            asked[fd] = s.st_dev, s.st_ino, node
            filters.watch_stat(remote, fd)
    os.close(own)
    return answered(run, tracee, fd)


def _read(path: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _cpuinfo(real: bytes | None) -> bytes | None:
    """The flags sgx and sgx_lc (Linux, arch/x86/include/asm/cpufeatures.h, words 9 and 16)."""
    if real is None or re.search(rb"^flags\s.*\bsgx\b", real, re.M):
        return None
    real = re.sub(rb"^(flags\s.*\bfsgsbase\b(?: tsc_adjust)?)", rb"\1 sgx", real, flags=re.M)
    return re.sub(rb"^(flags\s.*)$", rb"\1 sgx_lc", real, flags=re.M)


def _misc(run: Run, real: bytes | None) -> bytes | None:
    if real is None:
        return None
    nodes = [n for n in run.nodes.by_path.values() if n.major]
    names = {n.minor: os.path.basename(n.path) for n in nodes}
    ours = [f"{minor:3d} {name}\n".encode() for minor, name in sorted(names.items())]
    return b"".join(line for line in ours if line not in real) + real


def _mappings(run: Run, process: Any, real: bytes, smaps: bool) -> Iterator[bytes]:
    """The blocks of maps or smaps in the order of addresses, an enclave's as Linux prints them."""
    from softsgx.supervisor.state.enclaves import memory_fd

    files = {vma.file.base_file for vma in process.mm}
    ours = {os.fstat(memory_fd(run, file)).st_ino for file in files}
    waiting = list(process.mm)
    template: list[bytes] = []
    dirty = b" sd" in real
    for block in _blocks(real):
        start = int(block[0].partition(b"-")[0], 16)
        if int(block[0].split(None, 5)[4]) in ours:
            template = template or block[1:]
            continue
        while waiting and waiting[0].start < start:
            yield _vma(run, waiting.pop(0), template, smaps, dirty)
        yield b"".join(block)
    for vma in waiting:
        yield _vma(run, vma, template, smaps, dirty)


def _blocks(real: bytes) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    for line in real.splitlines(keepends=True):
        if _HEADER.match(line) and block:
            yield block
            block = []
        block.append(line)
    if block:
        yield block


def _vma(run: Run, vma: Any, template: list[bytes], smaps: bool, dirty: bool) -> bytes:
    """show_map_vma() and show_smap() of a VMA of the device; nothing of it is counted."""
    node = run.nodes[vma.file.base_file.path]
    perms = "".join(c if vma.prot >> i & 1 else "-" for i, c in enumerate("rwx"))
    perms += "s" if vma.mayshare else "p"
    major, minor = os.major(node.device), os.minor(node.device)
    head = f"{vma.start:08x}-{vma.end:08x} {perms} {vma.pgoff << 12:08x} {major:02x}:{minor:02x} "
    text = f"{head}{node.ino} ".ljust(73) + node.path + "\n"
    if not smaps:
        return text.encode()
    lines = [text.encode()]
    for line in template:
        name = line.split()[0]
        if name == b"VmFlags:":
            lines.append(b"VmFlags: %s\n" % _flags(vma, dirty).encode())
        elif name in _KEPT:
            lines.append(line)
        else:
            lines.append(_with_number(line, vma.end - vma.start >> 10 if name == b"Size:" else 0))
    return b"".join(lines)


def _with_number(line: bytes, number: int) -> bytes:
    """A line of smaps with another number, which ends in the same column."""
    found = _NUMBER.match(line)
    if found is None:
        return line
    width = len(found[2])
    return found[1] + str(number).encode().rjust(width) + line[found.end(2) :]


def _flags(vma: Any, dirty: bool) -> str:
    word = vma.prot & 7 | (vma.may & 7) << 4 | int(vma.shared) << 3 | int(vma.mayshare) << 7
    word |= 1 << 10 | 1 << 14 | 1 << 18 | 1 << 26 | vma.flags & (_DONTCOPY | _WIPEONFORK)
    names = [name for bit, name in (*_VM_FLAGS, *_SPECIAL) if word >> bit & 1]
    return " ".join(names + ["sd"] * dirty) + " "
