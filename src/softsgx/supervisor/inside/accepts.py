"""EACCEPT and EMODPE of a page, again and again: from the third on by compiled code.

What the law says of the next pages is asked here (`softsgx.device.accepted`), and what it read is
handed to the code, which compares it at each stop (``host/accepts.c``). What it took is told to
the model before anything else that happened is looked at. A thread that is on its way over a
change of protection is brought to one side of it then, as on the short way.
"""

from __future__ import annotations

from typing import Any

from softsgx.device.accepted import Accepted, alike, foresee
from softsgx.host import accepts, ptrace, vdso
from softsgx.host.foreign import address_of
from softsgx.host.signals import SIGTRAP
from softsgx.sgx.enclu import STATUS_FLAGS
from softsgx.supervisor.effects.mappings import allowed, native
from softsgx.supervisor.inside import masks
from softsgx.supervisor.inside.exceptions import flush
from softsgx.supervisor.state.dispositions import FORCED
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import waits
from softsgx.supervisor.stopped.ahead import Ahead
from softsgx.supervisor.stopped.remote import cancel
from softsgx.supervisor.stopped.resume import cont
from softsgx.uapi.regs import EFLAGS, ORIG_RAX, RAX, RBX, RCX, RIP

__all__ = ["Accepts", "taken"]

_PAGE, _ENCLU_BYTES, _SECINFO = 4096, 3, 64
_FIRST, _MOST = 8, 256
_U64, _OTHER_HALF = (1 << 64) - 1, 1 << 63


def taken(run: Run, tracee: Tracee, leaf: int) -> None:
    """A leaf was done by Python, its thread still stands there, with its registers loaded."""
    if run.accepts is None:
        run.accepts = Accepts(run)
    run.accepts.taken(tracee, leaf)


class Accepts(Ahead):
    """Leaves that are expected."""

    _found: Accepted | None

    def __init__(self, run: Run) -> None:
        super().__init__(run, accepts, _FIRST)
        self._tracee: Any = None
        self._vma: Any = None
        self._step = self._mask = self._have = 0

    def taken(self, tracee: Tracee, leaf: int) -> None:
        """A leaf was done; if it follows the last one on the next page, more are expected."""
        if self._block is None:
            return
        view = self._run.view
        last = self._last
        self._last = (tracee, leaf, view[RIP], view[RBX] & -_PAGE, view[RCX])
        step = view[RCX] - last[4] if last and last[:4] == self._last[:4] else 0
        if abs(step) != _PAGE:
            self._most = _FIRST
        elif self._skipped():
            return
        elif tracee.odd is None and not tracee.signals.ignored and self._possible():
            self._tracee, self._step = tracee, step // _PAGE
            self._expect(leaf)

    def _expect(self, leaf: int) -> None:
        run, tracee, block = self._run, self._tracee, self._block
        assert block is not None
        thread, view = tracee.thread, run.view
        process: Any = tracee.space.sgx
        if thread.tcs is None or thread.tcs.opted_in or run.pending.dirty:
            return
        regs = list(view)
        regs[RIP] -= _ENCLU_BYTES
        regs[RCX] += self._step * _PAGE
        regs[RAX], regs[EFLAGS] = leaf | _OTHER_HALF, view[EFLAGS] | STATUS_FLAGS
        self._vma = vma = process.mm.find(regs[RCX])
        if vma is None or getattr(vma.file, "enclave", None) is not thread.enclave:
            return
        enclave = vma.file.enclave
        if any(p is not process and p.file_of(enclave) for p in run.device.processes):
            return
        foreseen = self._foresee(regs)
        if foreseen is None:
            return
        self._found, self._mask, self._have = found, mask, have = foreseen
        memory, slot = enclave.memory, tracee.slot
        here = address_of(memory.view)
        info = (view[RBX] & -_PAGE) - enclave.base
        block.expect(memory.read(view[RBX] - enclave.base, _SECINFO))
        tables = None if slot is None else slot.table.tables
        image = vdso.load_image()
        for name, value in (
            ("tid", tracee.tid), ("rip", regs[RIP]), ("leaf", leaf), ("next", regs[RCX]),
            ("step", self._step * _PAGE & _U64), ("secinfo", view[RBX] & -_PAGE),
            ("slot", 0 if tables is None else tables.address + slot.at * 8),
            ("row", 0 if tables is None else tables.words[slot.at]),
            ("code", here + regs[RIP] - enclave.base), ("info", here + info),
            ("fresh", here - enclave.base & _U64 if found.fresh else 0),
            ("flags", found.regs[EFLAGS] | ~STATUS_FLAGS & _U64), ("keeps", found.regs[RAX] != 0),
            ("changes", mask != have), ("prot", mask),
            ("batch", tracee.space.image + image.batch), ("stop", tracee.space.image + image.stop),
            ("most", found.pages),
        ):  # fmt: skip
            block[name] = value
        if tables is not None:
            block["carried"] = slot.table.base + slot.table.image.carried
            block["frame"] = slot.table.base + slot.table.image.tables + slot.frame
            block["frame_at"] = tables.address + slot.frame
            tables.words[slot.frame + accepts.UNDERWAY >> 3] = 0
        self._begin()

    def _foresee(self, regs: list[int]) -> tuple[Accepted, int, int] | None:
        """What the law says of more pages, the first of them with ``regs``; their real protection
        afterwards and before.
        """
        run, vma, tracee = self._run, self._vma, self._tracee
        process = tracee.space.sgx
        found = foresee(run.device, process, vma, regs, self._step, self._most)
        if found is None:
            return None
        file, enclave = vma.file, found.enclave
        word = vma.cell(process.mm.schema_for(file)).words[0]
        mask, table = allowed(run, process, file, word, found.word), native(process, file)
        found.pages = alike(table, found.first, found.step, found.pages)
        have = table[found.first]
        if mask != have and (tracee.slot is None or tracee.dispatches or tracee.space.implies):
            return None
        if enclave.memory.sites:  # they are taken back before their page changes
            pages = {site.start + n >> 12 for site in enclave.memory.sites.values() for n in (0, 4)}
            secinfo = regs[RBX] - enclave.base >> 12
            last = found.first + found.step * (found.pages - 1)
            low, high = min(found.first, last), max(found.first, last)
            if any(low <= page <= high or page == secinfo for page in pages):
                return None
        return found, mask, have

    # -- the wait ------------------------------------------------------------------------

    def wait(self) -> tuple[int, int]:
        """The next event that is no leaf of these, as `waits.wait_any` tells it."""
        got, status = self._take()
        block = self._block
        assert block is not None
        while True:
            if not got:
                got, status = waits.wait_any()
            if not self._taken or not block["changes"] or self._landed(got, status):
                return got, status
            got = 0

    def _came(self, n: int) -> bool:
        """The code has taken ``n`` pages: whether something else has happened."""
        block, found = self._block, self._found
        assert block is not None
        assert found is not None
        if n:
            changed = found.came(n)
            self._taken += n
            native(self._tracee.space.sgx, self._vma.file).fill(*changed, self._mask)
            self._last = (*self._last[:4], block["next"] - block["step"] & _U64)
        if found.pages:
            return True
        self._most = min(self._most * 2, _MOST)
        regs = list(found.regs)
        regs[RIP], regs[RCX] = block["rip"], block["next"]
        regs[RAX], regs[EFLAGS] = block["leaf"] | _OTHER_HALF, regs[EFLAGS] | STATUS_FLAGS
        foreseen, self._found = self._foresee(regs), None
        if foreseen is not None:
            more, mask, have = foreseen
            if (mask, have, more.fresh) == (self._mask, self._have, found.fresh):
                self._found, block["most"] = more, more.pages
        return False

    # -- a thread on its way over a change of protection ---------------------------------

    def _underway(self) -> bool:
        slot = self._tracee.slot
        return bool(slot.table.tables.words[slot.frame + accepts.UNDERWAY >> 3])

    def _landed(self, tid: int, status: int) -> bool:
        """An event after the last page: False if it was of the way, and the thread runs again."""
        tracee = self._tracee
        if tid == tracee.tid:
            return self._arrived(tracee, status)
        if self._underway():
            # Whatever the other one wants comes after what was answered here.
            try:
                ptrace.interrupt(tracee.tid)
                status = waits.wait_stop(tracee.tid)
            except ProcessLookupError:
                self._late()
            else:
                if self._arrived(tracee, status):
                    waits.keep_stop(tracee.tid, status)
        return True

    def _arrived(self, tracee: Tracee, status: int) -> bool:
        """A stop of the thread itself: False if it runs again."""
        run, view, underway = self._run, self._run.view, self._underway()
        event, number = status >> 16, status >> 8 & 0xFF
        if status & 0xFF != 0x7F or event in (ptrace.EVENT_EXEC, ptrace.EVENT_EXIT):
            if underway:
                self._late()
            return True
        run.regs.load(tracee.tid)
        image, at = tracee.slot.table.image, view[RIP] - tracee.slot.table.base
        if not underway and not image.carried <= at < image.carried_end:
            return True
        if underway:
            self._late()
        assert self._block is not None
        refused = event == ptrace.EVENT_SECCOMP
        code = ptrace.si_code(tracee.tid) if not event and number in FORCED else 0
        view[:] = self._block.regs
        view[ORIG_RAX] = _U64
        if refused:
            cancel(run, tracee)
        if not refused and not event and code <= 0:
            run.regs.store(tracee.tid)
            return True  # a signal: what is late comes before its handler
        tracee.stopped = True
        flush(run, tracee)
        if not event and number in tracee.signals.actions:
            masks.lost(tracee, number)
            if tracee.odd is not None:
                masks.settle(run, tracee)
        run.regs.store(tracee.tid)
        if event == ptrace.EVENT_STOP and number != SIGTRAP:
            ptrace.interrupt(tracee.tid)  # it was in a group-stop, and goes back to it
        cont(run, tracee)
        return False

    def _late(self) -> None:
        """The last page's protection is not changed yet: it is at the next chance."""
        slot, block = self._tracee.slot, self._block
        assert block is not None
        slot.table.tables.words[slot.frame + accepts.UNDERWAY >> 3] = 0
        file = self._vma.file
        page = (block["next"] - block["step"] & _U64) - file.enclave.base >> 12
        native(self._tracee.space.sgx, file).fill(page, page + 1, self._have)
        self._run.pending.pages_changed(file, page, page + 1)
