"""EACCEPT, EMODPE and EACCEPTCOPY of pages: those of a kind that is known are compiled code's.

What the law says of a leaf on pages of one kind is asked here (`softsgx.device.accepted`), once,
and becomes a rule of the code's (``host/accepts.c``). What it took is told to the model before
anything else that happened is looked at. A thread that is on its way over a change of protection is
brought to one side of it then, as on the short way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from softsgx.device.accepted import SECINFO_BYTES, Accepted, foresee
from softsgx.foreign import address_of
from softsgx.host import accepts, vdso
from softsgx.host.short import R_HELD, R_LOCK
from softsgx.sdm.leaves import EACCEPT, EACCEPTCOPY, EMODPE
from softsgx.sgx.enclu import STATUS_FLAGS
from softsgx.supervisor.effects.mappings import allowed, wanted
from softsgx.supervisor.inside import carried
from softsgx.supervisor.inside.kinds import FullError, Kind, Kinds, Numbers, alone
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import places, waits
from softsgx.supervisor.stopped.ahead import possible
from softsgx.supervisor.stopped.remote import calls
from softsgx.uapi.regs import EFLAGS, ORIG_RAX, RAX, RBX, RCX, RDX, RIP
from softsgx.uapi.syscalls import NR_mprotect

__all__ = ["LEAVES", "Accepts", "binds", "taken"]

LEAVES = (EACCEPT, EMODPE, EACCEPTCOPY)
_PAGE, _ENCLU_BYTES = 4096, 3
_MOST, _IDLE = 512, 256
_OTHER_HALF = 1 << 63
_TF = 1 << 8


def taken(run: Run, tracee: Tracee, leaf: int) -> None:
    """A leaf was done by Python, its thread still stands there, with its registers loaded."""
    if run.accepts is None:
        run.accepts = Accepts(run)
    run.accepts.taken(tracee, leaf)


def binds(run: Run, process: HostProcess) -> bool:
    """Whether `taken` may have calls of its own to make, as it has once a process."""
    return places.to_bind(process) and possible(run, accepts)


class _Thread:
    """A thread whose leaves may be taken, and the TCS that it is in then, None for not at all.

    late: what is left to do if it does not come over a call that Python has sent it over.
    """

    __slots__ = ("kinds", "late", "slot", "tcs", "thread", "tracee", "words")

    def __init__(self, tracee: Tracee, kinds: Kinds, words: memoryview) -> None:
        self.tracee, self.kinds, self.words = tracee, kinds, words
        self.late: Callable[[], None] | None = None
        self.thread, self.slot, self.tcs = tracee.thread, tracee.slot, tracee.thread.tcs

    def ready(self, run: Run) -> bool:
        """Note how it is told that it is in its enclave: False if it is another thread by now."""
        tracee, tcs, slot = self.tracee, self.tcs, self.slot
        tid = tracee.tid
        if run.tracees.get(tid) is not tracee or tracee.thread is not self.thread:
            return False
        if tracee.slot is not slot:
            return False
        words = self.words
        if tcs is None:
            words[accepts.TID] = 0
            return True
        words[accepts.BOUND] = int(tracee.space.sgx.bound)
        usual = tracee.odd is None and not tracee.signals.ignored
        usual = usual and not (tcs.opted_in or tracee.dispatches or tracee.space.implies)
        inside = self.thread.tcs is tcs
        if slot is None:
            words[accepts.TID] = tid if usual and inside else 0
            return True
        words[accepts.TID] = tid if usual else 0
        entered = held = accepts.NOBODY
        row = tcs.row
        if row is not None and slot.table.rows.get(row.number) is row:
            if not tcs.cssa:
                entered = slot.table.rows_at + row.where + R_LOCK
            if inside and slot.row is row and row.held:
                held = slot.table.rows_at + row.where + R_HELD
        if inside and slot.row is None:  # it comes and goes by the tracer
            held = slot.table.tables.words[slot.at]
        words[accepts.INSIDE], words[accepts.INSIDE + 1] = entered, held
        return True


class _Rule:
    """What the pages of a rule become.

    old, before: their state and real protection; word, prot: the same afterwards.
    """

    __slots__ = ("before", "old", "prot", "word")

    def __init__(self, kind: Kind, word: int, prot: int) -> None:
        self.old, self.before, self.word, self.prot = kind.word, kind.have, word, prot


class Accepts:
    """The leaves that compiled code takes, and the wait for what it does not."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._block = accepts.Block() if possible(run, accepts) else None
        self._numbers = Numbers()
        self._enclaves: list[Kinds | None] = [None] * accepts.ENCLAVES
        self._next = self._idle = 0
        self._threads: dict[int, _Thread] = {}
        self._rules: list[_Rule] = []
        self._asked: set[tuple[int, bytes, int, int, int]] = set()
        self._missed = (0, 0)

    def _forget(self) -> None:
        """Begin anew: there were too many kinds, or rules."""
        for number in range(accepts.ENCLAVES):
            self._drop(number)
        self._numbers = Numbers()
        self._rules.clear()
        self._asked.clear()
        assert self._block is not None
        self._block["n_rules"] = 0

    # -- what is to be taken ---------------------------------------------------------------

    def taken(self, tracee: Tracee, leaf: int) -> None:
        """A leaf was done: more are to be expected, of pages like those around it."""
        run, tcs = self._run, tracee.thread.tcs
        if self._block is None or run.pending.dirty or not possible(run, accepts):
            return
        if tcs is None or tcs.opted_in or tracee.odd is not None or tracee.signals.ignored:
            return
        try:
            kinds = self._of(tracee)
            if kinds is not None:
                self._expect(tracee, kinds, leaf)
                if places.to_bind(kinds.process):
                    with calls(run, tracee) as call:
                        places.bind(call, kinds.process)
        except FullError:
            self._forget()
            return
        run.ahead = self

    def _of(self, tracee: Tracee) -> Kinds | None:
        """What is known of the pages of the enclave that a thread is in."""
        run, process, enclave = self._run, tracee.space.sgx, tracee.thread.enclave
        kinds = self._known(process, enclave)
        if kinds is not None:
            return kinds
        file = process.file_of(enclave)
        if file is None or not alone(run, process, enclave):
            return None
        number, self._next = self._next, (self._next + 1) % accepts.ENCLAVES
        self._drop(number)
        kinds = self._enclaves[number] = Kinds(run, process, file, self._numbers)
        assert self._block is not None
        here = address_of(enclave.memory.view)
        self._block.enclave(number, enclave.base, enclave.size, kinds.address, here)
        return kinds

    def _known(self, process: HostProcess, enclave: Any) -> Kinds | None:
        """What is known already, if the process is the one that maps the enclave."""
        for number, kinds in enumerate(self._enclaves):
            if kinds is not None and kinds.enclave is enclave and kinds.process is process:
                if kinds.ready():
                    return kinds
                self._drop(number)
        return None

    def _drop(self, number: int) -> None:
        kinds, self._enclaves[number] = self._enclaves[number], None
        if kinds is None:
            return
        kinds.close()
        assert self._block is not None
        self._block.enclave(number, 0, 0, 0, 0)
        for known in [t for t in self._threads.values() if t.kinds is kinds]:
            self._leave(known)

    def _leave(self, known: _Thread) -> None:
        known.words[accepts.TID] = 0
        del self._threads[known.tracee.tid % accepts.THREADS]

    def _expect(self, tracee: Tracee, kinds: Kinds, leaf: int) -> None:
        view, enclave = self._run.view, kinds.enclave
        page, info = view[RCX] - enclave.base >> 12, view[RBX] - enclave.base >> 12
        if view[RBX] % SECINFO_BYTES or not 0 <= info < enclave.pages.n_pages:
            return  # another leaf, which has nothing there
        tid, key = self._missed
        self._missed = (0, 0)
        around = [kinds.at(page)]
        around += [kinds.at(n) for n in (page + 1, page - 1) if 0 <= n < enclave.pages.n_pages]
        self._enter(tracee, kinds)
        secinfo = bytes(enclave.memory.read(view[RBX] - enclave.base, SECINFO_BYTES))
        of_info, of_source = kinds.at(info), 0
        if leaf == EACCEPTCOPY:
            of_source = kinds.at(view[RDX] - enclave.base >> 12)
            if not of_source:
                return
        if tid == tracee.tid and key >> 8 == leaf << 24 | of_source << 8 | of_info:
            around.append(key & 0xFF)
        for kind in around:
            asked = (leaf, secinfo, of_source, of_info, kind)
            if kind and of_info and page != info and asked not in self._asked:
                if len(self._rules) == accepts.RULES:
                    raise FullError
                self._asked.add(asked)
                self._ask(*asked)

    def _ask(self, leaf: int, secinfo: bytes, of_source: int, of_info: int, kind: int) -> None:
        """Make a rule of what the law says of a leaf on pages of a kind."""
        run, block = self._run, self._block
        page, info = self._numbers[kind], self._numbers[of_info]
        source = self._numbers[of_source] if of_source else None
        kinds: Kinds = page.of
        process, file = kinds.process, kinds.file
        regs = list(run.view)
        regs[RIP] -= _ENCLU_BYTES
        regs[RAX], regs[EFLAGS] = leaf | _OTHER_HALF, regs[EFLAGS] | STATUS_FLAGS
        found: Accepted | None = foresee(
            run.device, process, regs, secinfo, (page.word, page.vma), (info.word, info.vma),
            None if source is None else (source.word, source.vma),
        )  # fmt: skip
        if found is None:
            return
        cell = page.vma.cell(process.mm.schema_for(file)).words[0]
        prot = allowed(run, process, file, cell, found.word)
        new = self._numbers.number(kinds, found.word, page.vma, cell, prot)
        assert block is not None
        flags = found.regs[EFLAGS] | ~STATUS_FLAGS & accepts.NOBODY
        changes, keeps = int(prot != page.have), int(found.regs[RAX] != 0)
        words = (new, int(found.fresh), changes, prot, flags, keeps, int(found.copies))
        block.rule(leaf << 32 | of_source << 16 | of_info << 8 | kind, secinfo, words)
        self._rules.append(_Rule(page, found.word, prot))

    def _enter(self, tracee: Tracee, kinds: Kinds) -> _Thread:
        """Note a thread that is in an enclave, or has been."""
        block, tid, slot = self._block, tracee.tid, tracee.slot
        known = self._threads.get(tid % accepts.THREADS)
        if known is not None:
            same = known.tracee is tracee and known.kinds is kinds and known.slot is slot
            if same and known.thread is tracee.thread and known.tcs is known.thread.tcs:
                return known
        assert block is not None
        words = block.thread(tid)
        known = self._threads[tid % accepts.THREADS] = _Thread(tracee, kinds, words)
        image = vdso.load_image()
        slot_at = carried_at = there = frame = 0
        if slot is not None:
            base, short, tables = slot.table.base, slot.table.image, slot.table.tables.address
            slot_at, carried_at = tables + slot.at * 8, base + short.carried
            there, frame = base + short.tables + slot.frame, tables + slot.frame
        space = tracee.space
        for index, value in enumerate((
            tid, self._enclaves.index(kinds), slot_at, accepts.NOBODY, accepts.NOBODY,
            space.image + image.batch, carried_at, space.image + image.stop, there, frame,
            0, 0, 0, 0, 0,
        )):  # fmt: skip
            words[index] = value
        return known

    # -- what an ioctl has changed -----------------------------------------------------------

    def answered(self, tracee: Tracee, answer: int) -> bool:
        """An ioctl's thread stands at its entry, and what it has done is noted (`Run.pending`).

        If that is the protection of pages which its process alone maps, it is changed on the
        thread's way: True if the thread runs. If nothing has to change no more is noted.
        """
        run, pending, process = self._run, self._run.pending, tracee.space.sgx
        others = pending.remap or pending.effects or pending.new_fd or run.nested
        if self._block is None or others or not pending.dirty or not possible(run, accepts):
            return False
        todo: list[tuple[int, int, int]] = []
        try:
            for file, first, last in pending.dirty:
                kinds = self._known(process, file.enclave)
                if kinds is None or not kinds.may_change(first, last):
                    return False
                todo += wanted(run, process, file, first, last)
        except FullError:
            self._forget()
            return False
        if not todo:
            pending.dirty = []
            return False
        if len(todo) > 1 or tracee.slot is None or tracee.dispatches or tracee.space.implies:
            return False
        if run.view[EFLAGS] & _TF or tracee.odd is not None or waits.unusual():
            return False
        assert kinds is not None
        self._send(tracee, kinds, *todo[0], answer)
        return True

    def _send(
        self, tracee: Tracee, kinds: Kinds, first: int, last: int, prot: int, answer: int
    ) -> None:
        run, table = self._run, kinds.native
        known = self._threads.get(tracee.tid % accepts.THREADS)
        same = known is not None and known.tracee is tracee and known.kinds is kinds
        if known is None or not same or not known.ready(run):
            known = self._enter(tracee, kinds)
        before = list(table.runs(first, last))

        def late() -> None:
            for a, b, have in before:
                table.fill(a, b, have)
            run.pending.pages_changed(kinds.file, first, last)

        known.late, run.ahead = late, self
        table.fill(first, last, prot)
        run.pending.dirty = []
        known.words[accepts.PAGE], known.words[accepts.END] = first, last
        run.view[RAX], run.view[ORIG_RAX] = answer & accepts.NOBODY, accepts.NOBODY
        start = kinds.enclave.base + (first << 12)
        carried.send(run, tracee, known.words, (NR_mprotect, start, last - first << 12, prot))

    # -- the wait ------------------------------------------------------------------------

    def wait(self) -> tuple[int, int]:
        """The next event that is no leaf of these, as `waits.wait_any` tells it."""
        block, run = self._block, self._run
        assert block is not None
        while True:
            got = status = 0
            missed = 0
            if not waits.kept and self._ready():
                block["most"] = _MOST
                block["together"] = int(waits.may_poll())
                poll_ns = block["poll_ns"] = waits.poll_ns()
                block.run()
                done = block["done"]
                waits.polled(done, in_vain=poll_ns > 0 and not block["poll_ns"])
                got, status, missed = block["got"], block["status"], block["missed"]
                if done:
                    self._idle = 0
                    self._tell()
                    if not got and (done == _MOST or block["n_runs"] == accepts.RUNS):
                        continue
            if not got:
                got, status = waits.wait_any()
            if self._landed(got, status):
                break
        self._missed = (got, missed)
        self._idle += 1
        if self._idle > _IDLE:
            run.ahead = None
            self._idle = 0
        return got, status

    def _ready(self) -> bool:
        """Bring what the code compares up to now: whether there is anything to take."""
        run = self._run
        if run.filtered or run.rings or waits.unusual():
            return False
        try:
            for number, kinds in enumerate(self._enclaves):
                if kinds is not None and not kinds.ready():
                    self._drop(number)
        except FullError:
            self._forget()
        for known in list(self._threads.values()):
            if not known.ready(run):
                self._leave(known)
        return bool(self._threads)

    def _tell(self) -> None:
        """Tell the model what was taken.

        None of these pages is one that an entry has looked at (`Kinds`), so no check of an entry
        is void.
        """
        assert self._block is not None
        enclaves, rules = self._enclaves, self._rules
        self._numbers.told = True
        for number, of, first, last in self._block.runs():
            kinds, rule = enclaves[number], rules[of]
            assert kinds is not None
            if rule.word != rule.old:
                kinds.enclave.pages.fill(first, last, rule.word)
                kinds.enclave.generation += 1
            if rule.prot != rule.before:
                kinds.native.fill(first, last, rule.prot)
        self._numbers.told = False

    # -- threads on their way over a change of protection ------------------------------------

    def _landed(self, tid: int, status: int) -> bool:
        """An event: False if it was of a thread's way over a call, and that runs again.

        Whatever it is comes after what was answered here.
        """
        own = None
        gone = [known for known in self._threads.values() if known.words[accepts.WAY]]
        for known, way in [(known, self._way(known)) for known in gone]:
            known.words[accepts.WAY] = 0
            if known.tracee.tid == tid:
                own = known.tracee, way
            else:
                carried.bring(self._run, known.tracee, way)
        try:
            return own is None or carried.arrived(self._run, own[0], status, own[1])
        except ProcessLookupError:
            return True  # who deals with its stop finds that, too

    def _way(self, known: _Thread) -> carried.Way:
        words, kinds = known.words, known.kinds
        if words[accepts.WAY] == carried.SENT:
            assert known.late is not None
            return carried.Way(known.slot, words[accepts.REGS :], known.late)
        page = words[accepts.PAGE]
        rule = self._rules[words[accepts.RULE]]

        def undone() -> None:
            kinds.native.fill(page, page + 1, rule.before)
            self._run.pending.pages_changed(kinds.file, page, page + 1)

        return carried.Way(known.slot, words[accepts.REGS :], undone)
