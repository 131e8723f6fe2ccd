"""Was a page fault a read, a write or an instruction fetch?

The processor says so in the error code, and a signal handler sees it, but ptrace has no way to
ask for it.  So the instruction at RIP is decoded and its accesses compared with the address
that faulted.  Where the protection of the page is known most cases need no decoding: a page
that can be read can only fault on a write (or a fetch).

The kinds are bits of the page-fault error code (SDM, Figure "Page-Fault Error Code"), so that
they can be or-ed into one.  Rejected: single-stepping with changed protections (other threads
would see them), and a decoder of our own (capstone is imported at the first doubtful fault
only).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FETCH", "READ", "WRITE", "access_kind"]

READ = 0
WRITE = 1 << 1
FETCH = 1 << 4

_PROT_READABLE = 1 | 2
_PROT_EXEC = 4
_PAGE_BYTES = 4096
_MAX_INSN_BYTES = 15


def access_kind(
    code: bytes,
    rip: int,
    regs: Any,
    addr: int,
    addr_is_page_aligned: bool = False,
    prot: int | None = None,
) -> int:
    """Return FETCH, READ or WRITE: what the instruction at ``rip`` did to ``addr`` to fault.

    ``code`` holds the bytes at ``rip``, 15 or as many as can be read; ``regs`` has the
    registers at the fault as attributes, by the names of user_regs_struct.  ``addr`` is the
    fault's linear address (si_addr, CR2), or the first of its page if
    ``addr_is_page_aligned``.  ``prot`` is what the page of ``addr`` allowed the process when it
    faulted (PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4), if known: on x86 PROT_WRITE lets it read
    too, and PROT_EXEC alone may not (Linux uses a protection key for that, where there are any).

    A read-modify-write counts as a write, as the processor reports it.  READ if the
    instruction cannot be decoded.
    """
    may_fetch = prot is None or not prot & _PROT_EXEC
    may_read = prot is None or not prot & _PROT_READABLE
    near = rip <= addr < rip + _MAX_INSN_BYTES or addr_is_page_aligned
    if not may_read and not (may_fetch and near):
        return WRITE
    if may_fetch and addr == rip and not addr_is_page_aligned:
        return FETCH
    from softsgx.host import operands

    insn = operands.decode(code, rip)
    length = insn.size if insn is not None else None
    if may_fetch and _is_fetch(length, len(code), rip, addr, addr_is_page_aligned):
        return FETCH
    if not may_read:
        return WRITE
    if insn is None:
        return READ
    accesses = operands.accesses(insn, regs)
    hits = [each for each in accesses if _covers(each, addr, addr_is_page_aligned)]
    if not hits:
        # A size or an address that is not known here: by page, then by what it does at all.
        hits = [each for each in accesses if _covers(each, addr, True)] or accesses
    # Two accesses (MOVS, PUSH [m]) may both cover the address: the one that starts there, and
    # of those the read, which is done first.
    exact = [each for each in hits if each[0] == addr] or hits
    return WRITE if exact and all(kind == WRITE for _, _, kind in exact) else READ


def _is_fetch(length: int | None, known_bytes: int, rip: int, addr: int, page_only: bool) -> bool:
    """Say whether ``addr`` is where fetching the instruction at ``rip`` would fault.

    That is RIP itself or the start of the next page: an instruction that accesses others of
    its own bytes is not fetching them.  One that cannot be decoded (``length`` is None) for
    want of bytes is taken to go on behind those.
    """
    first_page = rip // _PAGE_BYTES
    end = rip + (length or known_bytes + 1)
    crosses = (end - 1) // _PAGE_BYTES != first_page
    if page_only:
        page = addr // _PAGE_BYTES
        return page == first_page or (crosses and page == first_page + 1)
    return addr == rip or (crosses and addr == (first_page + 1) * _PAGE_BYTES)


def _covers(access: tuple[int, int, int], addr: int, page_only: bool) -> bool:
    start, size, _ = access
    if page_only:
        return start // _PAGE_BYTES <= addr // _PAGE_BYTES <= (start + size - 1) // _PAGE_BYTES
    return start <= addr < start + size
