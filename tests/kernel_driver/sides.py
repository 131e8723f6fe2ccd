"""Two sides get the same calls: the kernel's driver, and softsgx under a design.

`Judge` makes each call on both and compares what they answer, what they write back, and after it
the state of every page of the enclave: maximum, type, EPCM and content. The VMAs are those of
softsgx's mm model, which real kernels' answers confirm (tests/mm): where that model asks the
design's rules about a mapping, the driver is asked the same, and what the model did to the VMAs
is done to the driver's.
"""

from __future__ import annotations

import ctypes
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from softsgx.device import Process
from softsgx.device import create as checks
from softsgx.device.debugger import debug_access
from softsgx.device.files import EnclaveFile
from softsgx.law.rule import FAULT, At, Request, Stop
from softsgx.mm.mremap import mremap
from softsgx.mm.munmap import munmap
from softsgx.mm.vma import Vma
from softsgx.model.effect import Map, Move, Protect, Unmap
from softsgx.uapi.errno import ENOMEM, errno_name
from tests.kernel_driver.asked import Difference, Kernel
from tests.kernel_driver.explained import BUSY, MEMORY, SIGNAL, explained, refused_earlier
from tests.kernel_driver.library import User
from tests.kernel_driver.memory import PAGE, JudgedDevice, UserArea, UserMemory

__all__ = ["Apart", "Judge"]

_READ_IMPLIES_EXEC = 0x0400000
_VM_SHARED = 8
_ERESTARTSYS = 512
_R, _W = 1, 2


class Apart(Exception):
    """The two sides differ for a known reason, and are in unlike states from now on."""


class Judge:
    """Both sides of one machine, and how many calls of each kind agreed.

    Each method makes a call on both sides and raises `Difference`. counts: calls that agreed,
    by kind; told: those that differ for a reason that is known, by reason. max_pages: how many
    pages of an enclave are looked at; no others may be added.
    """

    def __init__(
        self, kernel: Kernel, design: type[Any], user: User, areas: list[UserArea],
        max_pages: int = 16,
    ) -> None:  # fmt: skip
        self.kernel, self.library, self.design = kernel, kernel.library, design
        self.user, self.areas = user, areas
        self.counts: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.law = design()
        self.law.judge = self
        self.max_pages = max_pages
        self._words = (ctypes.c_uint64 * max_pages)()
        self._words_at = ctypes.addressof(self._words)
        self._einit = 0
        self.processes: list[Any] = []
        self.files: list[Any] = []

    # -- a machine from its boot to its end ---------------------------------------------------

    def begin(self) -> None:
        """A new machine with one process."""
        self.kernel.boot()
        self.device = JudgedDevice(self.law)
        self.device.library, self.device.max_pages = self.library, self.max_pages
        memory = UserMemory(self.user, self.areas)
        process: Any = Process(self.device, memory)
        memory.process = process
        process.kernel = self.library.mm_new()
        for area in self.areas:
            process.mm.adopt(Vma(area.start, area.end, area.prot, area.may))
            self.library.foreign(process.kernel, area.start, area.end, area.prot | area.may << 4)
        self.processes, self.files = [process], []

    def end(self) -> None:
        """Everything is closed, and nothing is left of it."""
        for process in list(self.processes):
            self.exit(process)
        for file in list(self.files):
            self.close(file)
        if self.kernel.state.objects:
            raise Difference(f"the driver keeps {self.kernel.state.objects} objects")
        self.sound()

    def sound(self) -> None:
        """Nothing happened in the driver that must not."""
        if self.kernel.state.failures:
            raise Difference(self.kernel.library.failure())

    def hold(self, what: str, kernel: int, softsgx: int, **facts: Any) -> None:
        """Two answers (0, a value or -errno) are the same, or their difference is explained."""
        if kernel != softsgx:
            reason = explained(self.law, what, kernel, softsgx, facts)
            if not reason:
                raise Difference(
                    f"{what}: the driver answers {_name(kernel)}, softsgx {_name(softsgx)} {facts}"
                )
            self.told[reason] += 1

    def ran_out(self) -> bool:
        """Whether memory was to run out in this call, and did."""
        return not self.kernel.state.fail_at and self._failing

    _failing = False

    def failing(self, at: int) -> None:
        """Memory runs out at the ``at``-th allocation of the next call (0: it does not)."""
        self.kernel.state.fail_at, self._failing = at, bool(at)

    # -- files --------------------------------------------------------------------------------

    def open(self) -> Any:
        """Open the device; the file, or None where memory ran out."""
        handle = self.library.opened()
        if handle < 0:
            if not (handle == -ENOMEM and self.ran_out()):
                raise Difference(f"open: {_name(handle)}")
            self.told[MEMORY] += 1
            return None
        file = self.device.open(self.law.paths[0], _R | _W, self.processes[0])
        file.kernel = handle
        self.files.append(file)
        self.counts["open"] += 1
        return file

    def close(self, file: Any) -> None:
        """Close the last fd of a file; mappings keep it."""
        self.files.remove(file)
        self.library.close(file.kernel)
        self.counts["close"] += 1

    # -- ioctls -------------------------------------------------------------------------------

    def ioctl(
        self, process: Any, file: Any, cmd: int, arg: int, argument: bytes, kind: str,
        *, einit: int = 0, again: Callable[[Any], bytes | None] | None = None, **facts: Any,
    ) -> int:  # fmt: skip
        """An ioctl on both sides with ``argument`` at ``arg``; the driver's answer.

        einit: what EINIT answers. again: where memory ran out or a signal came in the driver's
        call, the argument, made of the one that it left, with which softsgx does what the
        driver has done, or None where that is nothing.
        """
        view = self.user.view
        start = arg - self.user.base
        there = 0 <= start <= len(view) - len(argument)
        if there:
            view[start : start + len(argument)] = argument
        answer = int(self.library.ioctl(process.kernel, file.kernel, cmd, arg))
        early = refused_earlier(self.law, answer, facts)
        if early:
            # What softsgx would do then is another matter: the driver has done nothing.
            self.told[early] += 1
            self.same_enclave(file)
            return answer
        after = bytes(view[start : start + len(argument)]) if there else b""
        cut_short = (answer == -ENOMEM and self.ran_out()) or answer == -_ERESTARTSYS
        if cut_short:
            self.told[SIGNAL if answer == -_ERESTARTSYS else MEMORY] += 1
            rest = again(after) if again is not None and there else None
            if rest is None:
                self.same_enclave(file)
                return answer
            view[start : start + len(argument)] = rest
            self._einit = einit
            mine, why = self.device.ioctl(process, file, cmd, arg)
            if mine:
                raise Difference(f"{kind}: softsgx answers {_name(mine)} to a part ({why})")
            self.same_enclave(file)
            return answer
        if there:
            view[start : start + len(argument)] = argument
        self._einit = einit
        mine, why = self.device.ioctl(process, file, cmd, arg)
        if answer != mine:
            self.hold(kind, answer, mine, why=why, **facts)
            if not answer:
                raise Apart(kind)
        else:
            self.counts[kind] += 1
        if there and after != view[start : start + len(argument)]:
            self.hold_bytes(kind, after, bytes(view[start : start + len(argument)]), answer, mine)
        self.same_enclave(file)
        return answer

    def hold_bytes(self, kind: str, after: bytes, mine: bytes, answer: int, own: int) -> None:
        """What was written back is the same, unless the answers differ for a known reason."""
        if answer == own:
            raise Difference(f"{kind}: the driver leaves {after.hex()}, softsgx {mine.hex()}")

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While it lasts, EINIT on softsgx's side answers what `ioctl` was told."""
        was = checks.einit_error
        checks.einit_error = self._einit_error
        try:
            yield
        finally:
            checks.einit_error = was

    def _einit_error(self, enclave: Any, raw: bytes) -> int:
        if not self._einit:
            enclave.secs.attributes |= 1
        return self._einit

    def busy(self, process: Any, file: Any, cmd: int, arg: int) -> None:
        """An ioctl while another is under way: softsgx never has two, the driver says EBUSY."""
        self.library.busy(file.kernel, True)
        answer = self.library.ioctl(process.kernel, file.kernel, cmd, arg)
        self.library.busy(file.kernel, False)
        if answer != -16:
            raise Difference(f"an ioctl under another: {_name(answer)}")
        self.told[BUSY] += 1
        self.same_enclave(file)

    def same_enclave(self, file: Any) -> None:
        """The state of an enclave is the same on both sides."""
        e = file.enclave
        told = self.library.enclave_of(file.kernel)
        flags = e.created | e.initialized << 1
        if told.flags != flags or told.base != e.base or told.size != e.size:
            raise Difference(f"created, initialized, ELRANGE: {told.flags} {flags}")
        if e.created:
            if told.attributes_mask != e.attributes_allowed:
                raise Difference(f"attributes: {told.attributes_mask:#x} {e.attributes_allowed:#x}")
            if told.measured != e.measurement.value:
                raise Difference("what was measured")
            if told.pages or e.pages.top != [0]:
                self._same_pages(file, e)
        elif told.attributes_mask & ~e.attributes_allowed:
            raise Difference(f"attributes: {told.attributes_mask:#x} {e.attributes_allowed:#x}")
        self.sound()

    def _same_pages(self, file: Any, e: Any) -> None:
        n = min(e.pages.n_pages, self.max_pages)
        table = e.pages.top[0]
        leaf = table if isinstance(table, int) else table[0]
        if isinstance(leaf, int) or n > len(leaf):
            self._words[:n] = [e.pages[i] for i in range(n)]
            at = self._words_at
        else:
            at = leaf.buffer_info()[0]
        page = self.library.differs(file.kernel, at, n, e.memory.address)
        if page >= 0:
            self.library.pages(file.kernel, self._words_at, n, None)
            theirs = e.page_schema.unpack(self._words[page]) if page < n else "a page beyond"
            ours = e.page_schema.unpack(e.pages[page]) if page < n else ""
            raise Difference(f"page {page}: the driver has {theirs}, softsgx {ours}")

    # -- memory calls -------------------------------------------------------------------------

    def driver_mmap(self, process: Any, file: Any, start: int, end: int, vma: Any) -> int:
        """The driver's part of an mmap; ``vma``: the cell of what is being made."""
        flags = vma.prot | vma.may << 4 | _VM_SHARED
        personality = _READ_IMPLIES_EXEC * process.read_implies_exec
        return int(
            self.library.mmap(
                process.kernel, personality, file.kernel, start, end, flags,
                self.kernel.any_place,
            )
        )  # fmt: skip

    def driver_mprotect(self, process: Any, start: int, end: int, prot: int) -> int:
        """The driver's part of an mprotect of one VMA."""
        personality = _READ_IMPLIES_EXEC * process.read_implies_exec
        return int(
            self.library.mprotect(
                process.kernel, personality, start, end, prot | _VM_SHARED, self.kernel.any_place
            )
        )

    def _follow(self, process: Any, outcome: Any, kind: str) -> int:
        process.mm_changed()
        library, mm = self.library, process.kernel
        for effect in outcome.effects:
            if isinstance(effect, Unmap):
                library.did_unmap(mm, effect.start, effect.end)
            elif isinstance(effect, Map):
                if isinstance(effect.file, EnclaveFile):
                    library.did_map(mm, effect.start, effect.end)
                else:
                    library.foreign(mm, effect.start, effect.end, effect.prot | 7 << 4)
            elif isinstance(effect, Protect):
                library.did_protect(mm, effect.start, effect.end, effect.prot)
            elif isinstance(effect, Move):
                library.did_move(
                    mm, effect.old_start, effect.old_end, effect.new_start, effect.new_end
                )
        self.same_vmas(process)
        self.counts[kind] += 1
        self.sound()
        return int(outcome.ret)

    def same_vmas(self, process: Any) -> None:
        """The VMAs of a process with an enclave are the same on both sides."""
        triples = array("Q")
        for vma in process.mm:
            if vma.special:
                triples.extend((vma.start, vma.end, vma.prot))
        at, n = triples.buffer_info()
        if not self.library.same_vmas(process.kernel, at, n // 3):
            raise Difference("the driver's VMAs are others")

    def mmap(
        self, process: Any, addr: int, length: int, prot: int, flags: int, file: Any, offset: int
    ) -> int:
        """The system call mmap of a file, or of anonymous memory (None)."""
        outcome = self.device.mmap(process, addr, length, prot, flags, file, offset)
        return self._follow(process, outcome, "mmap")

    def mprotect(self, process: Any, addr: int, length: int, prot: int) -> int:
        """The system call mprotect."""
        outcome = self.device.mprotect(process, addr, length, prot)
        return self._follow(process, outcome, "mprotect")

    def munmap(self, process: Any, addr: int, length: int) -> int:
        """The system call munmap."""
        return self._follow(process, munmap(process.mm, addr, length), "munmap")

    def mremap(self, process: Any, addr: int, old: int, new: int, flags: int, to: int) -> int:
        """The system call mremap."""
        return self._follow(process, mremap(process.mm, addr, old, new, flags, to), "mremap")

    def fork(self, process: Any) -> Any:
        """A child, or None if memory ran out in it: it is gone on both sides."""
        child: Any = process.fork()
        memory = UserMemory(self.user, self.areas)
        memory.process, child.memory = child, memory
        child.kernel = self.library.fork(process.kernel)
        self.processes.append(child)
        self.same_vmas(child)
        if self.ran_out():
            self.told[MEMORY] += 1
            self.exit(child)
            return None
        self.counts["fork"] += 1
        return child

    def exit(self, process: Any) -> None:
        """A process ends."""
        self.processes.remove(process)
        self.library.mm_exit(process.kernel)
        process.exit()
        self.counts["exit"] += 1

    # -- accesses from inside -----------------------------------------------------------------

    def access(self, process: Any, addr: int, kind: int) -> None:
        """Code inside reads (0), writes (1) or fetches (2): what it maps, or the signal."""
        vma = process.mm.find(addr)
        if vma is None or not vma.special:
            return
        file = vma.file
        present = self.library.has_pte(process.kernel, addr)
        answer = self.library.access(process.kernel, addr, kind)
        if self.ran_out():
            self.told[MEMORY] += 1
            self._catch_up(process, file, addr, kind)
            return
        result = process.page_fault(addr, kind, present)
        mine = result.signal | result.si_code << 8 | result.error_code << 16
        if answer != (mine if result.signal else 0):
            raise Difference(
                f"access {kind} at {addr:#x}: the driver {answer:#x}, softsgx {mine:#x}"
                f" ({result.why})"
            )
        self.counts["access"] += 1
        self.same_enclave(file)

    def _catch_up(self, process: Any, file: Any, addr: int, kind: int) -> None:
        """The page was added (EAUG), though what came after it failed."""
        e = file.enclave
        if self.library.enclave_of(file.kernel).pages != e.pages.count():
            process.page_fault(addr, kind)
        self.same_enclave(file)

    def debug(self, process: Any, addr: int, length: int, data: bytes | None) -> None:
        """ptrace(2) reads, or writes ``data``."""
        vma = process.mm.find(addr)
        if vma is None or not vma.special or addr + length > vma.end:
            return
        buffer = ctypes.create_string_buffer(data or b"", length)
        answer = self.library.debug(process.kernel, addr, buffer, length, data is not None)
        mine = debug_access(process, addr, length, data)
        ours = mine if isinstance(mine, int) else len(mine)
        self.hold("ptrace", answer, ours, length=length)
        if data is None and not isinstance(mine, int) and buffer.raw[: len(mine)] != mine:
            raise Difference(f"ptrace: {buffer.raw.hex()} and {mine.hex()}")
        self.counts["ptrace"] += 1
        self.same_enclave(vma.file)

    def enclu(self, file: Any, leaf: int, page: int, source: int, flags: int) -> None:
        """EACCEPT (5), EMODPE (6) or EACCEPTCOPY (7): the enclave's part, from inside."""
        e = file.enclave
        word = e.pages[page]
        get = e.page_schema.get
        if not e.initialized or not get(word, "present") or not get(e.pages[source], "present"):
            return
        answer = self.library.enclu(
            file.kernel, leaf, e.base + page * PAGE, e.base + source * PAGE, flags
        )
        r = Request(
            perm=flags & 7, pending=flags >> 3 & 1, modified=flags >> 4 & 1, pr=flags >> 5 & 1,
            pt=flags >> 8 & 0xFF,
        )  # fmt: skip
        rule = {5: self.law.eaccept, 6: self.law.emodpe, 7: self.law.eacceptcopy}[leaf]
        cell = e.page_schema.cell(word)
        mine = 0
        try:
            if leaf == 7 and (r.perm & 3 == 2 or r.pt != 2):
                raise Stop(FAULT | 13, "SECINFO")
            rule(self.device.run, At(page=cell, enclave=e), r)
            e.pages[page] = cell.words[0]
            if leaf == 7:
                e.memory.write(page * PAGE, e.memory.read(source * PAGE, PAGE))
            e.touch()
        except Stop as stop:
            mine = stop.errno
        self.hold("enclu", answer, mine)
        self.counts["enclu"] += 1
        self.same_enclave(file)


def _name(answer: int) -> str:
    if answer >= 0:
        return hex(answer)
    return "ERESTARTSYS" if answer == -_ERESTARTSYS else errno_name(-answer)
