"""Who is inside by the short way: the tracer's side of the rows and slots of a process.

A row is open while EENTER at its TCS would be let in without a look: what `sgx.enclu.eenter`
remembers in ``tcs.checked`` still holds, and CSSA is 0. It is closed before anything of that
changes (`Enclave.touch`, `HostProcess.mm_changed`, AEX). A thread takes the lock of a row first
and looks whether it is open then; here OPEN is cleared first and the lock looked at then, with
a fence between: one of the two sees the other. So the tracer needs no atomic operation.

The lock is a thread's that came the short way; one that the tracer let in holds HELD, since a
thread that finds the row closed takes the lock back without asking who had it.

What a slot says is a guest's word: a row that is not its own, or addresses that no thread has,
must harm nobody else.
"""

from __future__ import annotations

import struct

from softsgx.host import pathcode, short
from softsgx.sgx.enclave import Enclave, Tcs
from softsgx.sgx.enclu import Thread
from softsgx.supervisor.state.host_process import HostProcess

__all__ = ["Row", "Slot", "Table"]

_USER_END = (1 << 47) - 4096
"""No FS or GS base from here on can be given to a thread (Linux putreg(): TASK_SIZE_MAX)."""


class Row:
    """What the short way knows of one TCS; see `softsgx.sgx.enclave.Shortcut`."""

    __slots__ = ("enclave", "halves", "held", "number", "open", "table", "tcs", "where")

    def __init__(self, table: Table, number: int, enclave: Enclave, tcs: Tcs) -> None:
        self.table, self.number, self.enclave, self.tcs = table, number, enclave, tcs
        self.held = self.open = False
        self.where = number * short.ROW
        self.halves = table.tables.halves
        words, at = table.tables.words, self.where // 8
        stub = table.base + table.image.stubs + number * short.STUB
        for offset, value in (
            (short.R_COUNT, 0),
            (short.R_ENTRY, tcs.entry),
            (short.R_OFSBASE, tcs.fs_base),
            (short.R_OGSBASE, tcs.gs_base),
            (short.R_GPR, enclave.base + tcs.gpr(0)),
            (short.R_STUB, stub),
            (short.R_TCS, tcs.addr),
        ):
            words[at + offset // 8] = value
        if tcs.entered is not None:
            self.taken(tcs.entered)

    def close(self) -> None:
        """From now on every thread comes to the tracer."""
        self.halves[(self.where + short.R_OPEN) // 4] = 0
        if self.open:
            self.open = False
            self.table.open.discard(self)
            self.enclave.shortcuts.discard(self)

    def busy(self) -> bool:
        """Whether a thread is inside, with nobody let in any more: the row is closed."""
        self.close()
        short.fence()
        halves, at = self.halves, self.where // 4
        return bool(halves[at + short.R_LOCK // 4] or halves[at + short.R_HELD // 4])

    def taken(self, thread: Thread) -> None:
        """The tracer has let a thread in; it may leave by itself if it has a slot."""
        self.halves[(self.where + short.R_HELD) // 4] = 1
        self.held = True
        slot: Slot | None = thread.slot
        if slot is not None and slot.table is self.table and not slot.shy:
            tcs = self.tcs
            if not tcs.outer_tf and not tcs.opted_in:
                slot.publish(self)
        self.settle()

    def freed(self, thread: Thread) -> None:
        """A thread has left by the tracer."""
        slot: Slot | None = thread.slot
        if slot is not None:
            slot.outside()
        self.settle()
        self.halves[(self.where + (short.R_HELD if self.held else short.R_LOCK)) // 4] = 0
        self.held = False

    def settle(self) -> None:
        """Open it if EENTER needs no look, else close it."""
        tcs, process = self.tcs, self.table.process
        now = (self.enclave.entries, process.generation, process)
        if tcs.cssa or tcs.checked != now or tcs.debug_optin:
            self.close()
        elif not self.open:
            self.open = True
            self.table.open.add(self)
            self.enclave.shortcuts.add(self)
            self.halves[(self.where + short.R_OPEN) // 4] = 1

    def count(self) -> None:
        """Add how often it was entered the short way to what its process knows."""
        words, at = self.table.tables.words, (self.where + short.R_COUNT) // 8
        entered, addr = self.table.process.entered, self.tcs.addr
        entered[addr] = entered.get(addr, 0) + words[at]
        words[at] = 0


class Slot:
    """What the short way knows of one thread. shy: the tracer wants to see it come and go,
    since it blocks signals of exceptions (`inside.masks`), or may.

    row: the one that it is inside of, as far as the tracer knows. frame: where its frame is among
    the tables, in bytes.
    """

    __slots__ = ("at", "frame", "number", "row", "shy", "table")

    def __init__(self, table: Table, number: int) -> None:
        self.table, self.number = table, number
        self.at = (table.image.slots - table.image.tables + number * short.SLOT) // 8
        self.frame = table.image.frames - table.image.tables + number * short.FRAME
        self.shy = True
        self.row: Row | None = None
        self.outside()

    def outside(self) -> None:
        """The thread is outside."""
        self.row = None
        self.table.tables.words[self.at] = short.LONG_WAY if self.shy else 0

    def hide(self) -> None:
        """It may block signals now that have to arrive inside: its next entry is looked at."""
        self.shy = True
        if self.row is None:
            self.table.tables.words[self.at] = short.LONG_WAY

    def publish(self, row: Row) -> None:
        """The thread is inside, and may leave the short way."""
        words, at, tcs = self.table.tables.words, self.at, row.tcs
        words[at + short.S_AEP // 8] = tcs.aep
        words[at + short.S_FS // 8] = tcs.outer_fs_base
        words[at + short.S_GS // 8] = tcs.outer_gs_base
        self.row = row
        words[at] = self.table.rows_at + row.where + short.R_HELD

    def known(self, thread: Thread) -> None:
        """At a stop: make the model of a thread what it has done since the last one."""
        table = self.table
        words, at = table.tables.words, self.at
        value = words[at]
        if value <= short.LONG_WAY:
            if self.row is not None:  # it has left by itself
                _left(thread)
                self.row = None
            return
        row, held = table.row_of(value)
        known = row is not None and row is self.row and thread.tcs is row.tcs
        if row is None or (held and not known) or (not held and row.tcs.cssa):
            _left(thread)  # no thread of ours has written that
            self.outside()
            return
        if thread.tcs is not row.tcs:
            _left(thread)
            thread.tcs, thread.enclave = row.tcs, row.enclave
        tcs = row.tcs
        tcs.entered = thread
        tcs.aep = words[at + short.S_AEP // 8]
        tcs.outer_fs_base = _base(words[at + short.S_FS // 8])
        tcs.outer_gs_base = _base(words[at + short.S_GS // 8])
        tcs.outer_tf = tcs.opted_in = 0
        row.held = held
        self.row = row


def _left(thread: Thread) -> None:
    """A thread is outside, without the tracer's help."""
    tcs = thread.tcs
    if tcs is not None:
        thread.tcs = None
        if tcs.entered is thread:
            tcs.entered = None


def _base(value: int) -> int:
    return value if value < _USER_END else 0


class Table:
    """The rows and slots of one process; ``base``: where its code is there."""

    def __init__(self, process: HostProcess, base: int) -> None:
        self.process, self.base = process, base
        self.image = short.load_short()
        self.tables = short.Tables()
        self.rows: dict[int, Row] = {}
        self.open: set[Row] = set()
        self.rows_at = base + self.image.rows
        self._free = list(range(short.SLOTS - 1, 0, -1))

    def tell_paths(self, base: int) -> None:
        """Tell the code of ``host/paths.S``, at ``base`` in the process, where the slots are."""
        where = struct.pack("<Q", self.base + self.image.slots)
        self.process.space.poke(base + pathcode.load().slots, where)

    def slot(self) -> Slot | None:
        """A slot for one more thread, None where there are too many."""
        return Slot(self, self._free.pop()) if self._free else None

    def give_back(self, slot: Slot) -> None:
        """The thread is gone."""
        self._free.append(slot.number)

    def add(self, enclave: Enclave, tcs: Tcs) -> None:
        """A row for a TCS, if there is room where a thread would look."""
        numbers = short.places(tcs.addr)

        # One of a page that was there before; one that nobody has; one that is not used.
        def by_use(number: int) -> int:
            there = self.rows.get(number)
            if there is None:
                return 1
            return 0 if there.tcs.addr == tcs.addr else 2

        for number in sorted(numbers, key=by_use):
            row = self.rows.get(number)
            if row is not None:
                if row.open or row.busy():
                    if by_use(number) == 0:
                        return
                    continue
                row.count()
                former = row.tcs
                if former.row is row:
                    former.row = None
            tcs.row = self.rows[number] = Row(self, number, enclave, tcs)
            return

    def forget(self, enclave: Enclave) -> None:
        """An enclave is no more."""
        for number, row in list(self.rows.items()):
            if row.enclave is enclave:
                row.close()
                row.count()
                self.tables.words[(row.where + short.R_TCS) // 8] = 0
                del self.rows[number]

    def row_of(self, value: int) -> tuple[Row | None, bool]:
        """The row that a slot names, and whether its thread holds HELD."""
        number, offset = divmod(value - self.rows_at, short.ROW)
        if offset not in (short.R_LOCK, short.R_HELD):
            return None, False
        return self.rows.get(number), offset == short.R_HELD

    def clear(self, value: int) -> None:
        """Clear the word that a slot or a register of a thread names, if it is one."""
        row, held = self.row_of(value)
        if row is not None:
            row.halves[(row.where + (short.R_HELD if held else short.R_LOCK)) // 4] = 0
            row.held = False

    def close(self) -> None:
        """The process has ended, or become another program; threads inside did AEX before."""
        for row in list(self.rows.values()):
            row.close()
            row.count()
            if row.tcs.row is row:
                row.tcs.row = None
        self.rows.clear()
        self.tables.close()
