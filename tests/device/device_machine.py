"""A random machine's state, and what has to hold of it: the ground of test_device_machine.

``most`` and ``log`` are kept beside the device, from what the calls asked for: the maximum
of each page, and the pages that were added, in order.
"""

from __future__ import annotations

import hashlib
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from softsgx.designs.linux import DEFAULT
from softsgx.device import Device, Process
from softsgx.device.build import Segment
from softsgx.law.rule import At
from softsgx.sdm import leaves as sdm
from softsgx.sdm.structs import SECINFO, SECS
from softsgx.sgx import enclu
from softsgx.sgx.enclu import Thread
from softsgx.uapi import sgx as uapi
from softsgx.uapi.regs import RBX

__all__ = ["BAD", "BASES", "PAGE", "SIZE", "MachineState", "N", "R", "W", "X"]

PAGE, N = 4096, 16
SIZE = N * PAGE
BASES = (0x7000_0000_0000, 0x7000_0001_0000)
R, W, X = 1, 2, 4
BAD = 0x6660_0000
ZEROS = bytes(PAGE)


class MachineState(RuleBasedStateMachine):
    """Processes, threads and enclaves of one device; fds 3 and 4 are enclaves, 5 a token."""

    design: Any = DEFAULT

    def __init__(self) -> None:
        super().__init__()
        self.device = Device(self.design())
        self.processes: list[Process] = [self.device.process()]
        self.threads: list[Thread] = []
        self.enclaves: list[Any] = []
        self.most: dict[tuple[Any, int], int] = {}
        self.log: dict[Any, list[Segment]] = {}
        self.generations: dict[Any, int] = {}
        self.argument = 0

    # -- looking -----------------------------------------------------------------------

    def of(self, enclave: Any, page: int) -> dict[str, int]:
        return dict(enclave.page_schema.unpack(enclave.pages[page]))

    def enclave_state(self, e: Any) -> tuple[Any, ...]:
        if not e.created:
            return (0, e.initialized, e.attributes_allowed)
        tcs = tuple(
            (t.offset, t.cssa, id(t.entered), t.aep) for t in e.tcs.values() if t.entered or t.cssa
        )
        return (
            *(e.created, e.initialized, e.base, e.size, e.attributes_allowed, e.secs.attributes),
            *(id(e.identity), e.measurement.digest(), e.key_root, sorted(tcs)),
            tuple(e.pages[i] for i in range(N)),
            hashlib.sha1(e.memory.view).digest(),
        )

    def vmas(self, process: Process) -> list[tuple[Any, ...]]:
        return [(v.start, v.end, v.prot, v.may, id(v.file), v.pgoff) for v in process.mm]

    def snapshot(self) -> tuple[Any, ...]:
        return (
            [self.enclave_state(e) for e in self.enclaves],
            [(self.vmas(p), sorted(p.files)) for p in self.processes],
            [(t.tcs, t.enclave, t.xstate.read()) for t in self.threads],
        )

    def file(self, process: Process, fd: int) -> Any:
        return process.files[fd]

    def pick(self, data: st.DataObject, things: list[Any]) -> Any:
        return things[data.draw(st.integers(0, len(things) - 1))]

    # -- calls -------------------------------------------------------------------------

    def ioctl(self, process: Process, fd: int, cmd: int, argument: bytes, where: int = 0) -> int:
        self.argument = where or process.memory.put(argument)
        return process.ioctl(fd, cmd, self.argument)

    def _create(self, process: Process, fd: int, base: int, secs: dict[str, Any]) -> int:
        fields = {
            "size": SIZE, "baseaddr": base, "ssaframesize": 1, "attributes": 4, "xfrm": 3,
        } | secs  # fmt: skip
        src = process.memory.put(SECS.pack(**fields))
        answer = self.ioctl(
            process, fd, uapi.SGX_IOC_ENCLAVE_CREATE, uapi.ENCLAVE_CREATE.pack(src=src)
        )
        if not answer:
            self.log[self.file(process, fd).enclave] = []
        return answer

    def _add(self, process: Process, fd: int, s: Segment, fields: dict[str, int]) -> int:
        layout, memory = uapi.ENCLAVE_ADD_PAGES, process.memory
        values = {
            "src": memory.put(s.data, prot=s.source_prot, may=s.source_may),
            "secinfo": memory.put(SECINFO.pack(flags=s.secinfo_flags)),
            "offset": s.offset & (1 << 64) - 1,
            "length": len(s.data),
            "flags": int(s.measured),
        } | fields
        answer = self.ioctl(process, fd, uapi.SGX_IOC_ENCLAVE_ADD_PAGES, layout.pack(**values))
        enclave = self.file(process, fd).enclave
        done = layout.unpack(memory.read(self.argument, layout.size)).count
        assert done == (len(s.data) if not answer else done)
        if done:
            part = Segment(
                s.offset, s.data[:done], s.perm, tcs=s.tcs, measured=s.measured
            )  # fmt: skip
            self.log[enclave].append(part)
            for page in range(s.offset // PAGE, (s.offset + done) // PAGE):
                self.most[enclave, page] = R | W if s.tcs else s.perm
        return answer

    def _init(self, process: Process, fd: int, raw: bytes, where: int = 0) -> int:
        where = where or process.memory.put(raw)
        return self.ioctl(
            process, fd, uapi.SGX_IOC_ENCLAVE_INIT, uapi.ENCLAVE_INIT.pack(sigstruct=where)
        )

    def unchanged_but(self, before: Any, fd_enclave: Any, first: int, last: int) -> None:
        """After a failed ioctl: nothing but the pages [first, last) of one enclave differs."""
        after = self.snapshot()
        assert after[1:] == before[1:]
        for e, old, new in zip(self.enclaves, before[0], after[0], strict=True):
            if e is not fd_enclave or first >= last:
                assert old == new
                continue
            assert old[:6] == new[:6]
            for page in range(N):
                if not first <= page < last:
                    assert old[10][page] == new[10][page]

    def allowed(self, enclave: Any, start: int, end: int, prot: int) -> bool:
        """sgx_encl_may_map(), said differently: page by page, from what the machine knows."""
        if not enclave.created:
            return True
        base = enclave.base
        within = base <= start <= end <= base + enclave.size
        if self.design.release >= (6, 0) and enclave.initialized and not within:
            return False
        return all(
            not prot & ~most
            for (e, page), most in self.most.items()
            if e is enclave and start <= base + page * PAGE < end
        )

    def augmented(self, before: Any) -> Any:
        """``before`` with what EAUG alone may have done since: pages that were absent."""
        states = []
        for e, old in zip(self.enclaves, before[0], strict=True):
            state = list(old)
            if e.created:
                words = list(old[10])
                for page in range(N):
                    now = self.of(e, page)
                    if not words[page] and now["pending"]:
                        assert now == {
                            "present": 1, "pt": sdm.PT_REG, "perm": R | W, "pending": 1,
                            "modified": 0, "pr": 0, "max": R | W | X,
                        }  # fmt: skip
                        assert e.initialized
                        words[page] = e.pages[page]
                        self.most[e, page] = R | W | X
                state[10] = tuple(words)
            states.append(tuple(state))
        return (states, *before[1:])

    # -- always ------------------------------------------------------------------------

    @invariant()
    def a_tcs_is_busy_as_long_as_a_thread_is_inside(self) -> None:
        busy = [t.tcs for t in self.threads if t.tcs is not None]
        assert len(busy) == len(set(map(id, busy)))
        for t in self.threads:
            if t.tcs is not None:
                assert t.tcs.entered is t
                assert t.enclave is not None
                assert t.enclave.initialized
        for e in self.enclaves:
            for tcs in e.tcs.values():
                assert 0 <= tcs.cssa <= tcs.nssa
                if tcs.entered is not None:
                    assert tcs.entered.tcs is tcs

    @invariant()
    def the_epcm_is_consistent(self) -> None:
        law = self.device.design
        for e in self.enclaves:
            for page in range(N if e.created else 0):
                s = self.of(e, page)
                if not s["present"]:
                    assert e.pages[page] == 0
                    assert (e, page) not in self.most
                    assert e.memory.view[page * PAGE : (page + 1) * PAGE] == ZEROS
                    continue
                assert s["pt"] in {sdm.PT_REG, sdm.PT_TCS, sdm.PT_TRIM}
                assert s["max"] == self.most[e, page]
                assert not s["perm"] & W or s["perm"] & R
                if s["pt"] != sdm.PT_REG:
                    assert s["perm"] == 0
                assert not (s["pending"] and s["modified"])
                assert e.initialized or not s["pending"] | s["modified"] | s["pr"]
                cell = e.page_schema.cell(e.pages[page])
                access = law.epcm_access(At(page=cell))
                if s["pt"] != sdm.PT_REG or s["pending"] or s["modified"]:
                    assert access == 0
                else:
                    assert access == s["perm"]

    @invariant()
    def no_mapping_gives_more_than_both_the_maximum_and_the_epcm(self) -> None:
        law = self.device.design
        for process in self.processes:
            for vma in process.mm:
                e = vma.file.enclave
                for addr in range(vma.start, vma.end, PAGE):
                    if not e.created or not e.base <= addr < e.base + e.size:
                        continue
                    page = addr - e.base >> 12
                    at = At(
                        page=e.page_schema.cell(e.pages[page]),
                        vma=vma.cell(process.mm.schema_for(vma.file)),
                        enclave=e,
                    )
                    can, s = law.accessible(at), self.of(e, page)
                    assert not can & ~(vma.prot & s["perm"] & s["max"])

    @invariant()
    def what_is_remembered_of_an_entry_is_what_a_look_would_say(self) -> None:
        for process in self.processes:
            for e in self.enclaves:
                for tcs in e.tcs.values():
                    key = (e.entries, process.generation, process)
                    if tcs.checked != key or tcs.cssa or tcs.entered is not None:
                        continue
                    regs = [0] * 27
                    regs[RBX] = tcs.addr
                    assert enclu._enter_checks(process.thread(), e, regs, resume=False) == 0

    @invariant()
    def generations_only_grow(self) -> None:
        for thing in (*self.enclaves, *self.processes):
            assert thing.generation >= self.generations.get(thing, 0)
            self.generations[thing] = thing.generation
