"""The walk's world with no process behind it: what each call of tests/guests/walk.c answers.

Enclaves and the memory around them are both the mm model's here, while softsgx leaves the
latter to the kernel: each call that reaches over both is two programs' answer.
"""

from __future__ import annotations

from ctypes import addressof, c_uint
from functools import cache
from typing import Any

from softsgx.designs.registry import make_design
from softsgx.device import Device, Process
from softsgx.host import ptrace
from softsgx.law.rule import rules_of
from softsgx.mm.madvise import ALWAYS, BY_KERNEL, madvise
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.mseal import mseal
from softsgx.mm.remap_file_pages import remap_file_pages
from softsgx.mm.special import msync_errno
from softsgx.sdm.leaves import ATTR_MODE64BIT, PT_REG, PT_TCS, SECINFO_PT_SHIFT
from softsgx.sdm.structs import SECINFO, SECS, SIGSTRUCT
from softsgx.uapi import designs as uapi
from softsgx.uapi import mman, sgx
from softsgx.uapi import syscalls as nr
from tests.mm.mm_process import kernel_version

__all__ = [
    "ADVICE_ANYWHERE",
    "ARENA",
    "ARENA_PAGES",
    "ENCLAVES",
    "EXIT",
    "FORK",
    "HEAP",
    "LIMITED",
    "MAP_LOCKED",
    "MAP_SEGMENT",
    "MPROTECT",
    "PAGE",
    "PAGES",
    "PLACES",
    "PROCESS_MADVISE",
    "RECV",
    "RESTRICT",
    "SCRATCH",
    "SEND",
    "SHMAT",
    "THREAD",
    "TOUCH",
    "TYPES",
    "USERFAULT",
    "Call",
    "Twin",
    "via",
]  # fmt: skip

# As in tests/guests/walk.c.
ARENA, PAGE = 0x100000000000, 4096
SCRATCH = ARENA - (1 << 24)
PLACES = (0, 16, 48)
ENCLAVES, ELRANGE_PAGES, ARENA_PAGES = 3, 16, 72
PAGES = ("rx", "rw", "r", "rwx", "rw", "rw", "rx", "tcs", "rw", "rw")
(FORK, THREAD, EXIT, TOUCH, SEND, RECV, MPROTECT, MAP_SEGMENT, RESTRICT, TYPES,
 PROCESS_MADVISE, SHMAT, MAP_LOCKED, USERFAULT, LIMITED) = range(0x1000, 0x100F)  # fmt: skip
HEAP = ARENA + 32 * PAGE

# What throws away or takes in pages of ordinary memory changes what the model does not keep
# (anon_vma by read, KSM, guards), so the other kinds go to enclaves alone.
ADVICE_ANYWHERE = (0, 1, 2, 3, 4, 8, 9, 10, 10, 10, 11, 16, 17, 18, 19, 20, 5, 77)

_U64 = (1 << 64) - 1
_EINVAL, _ENOMEM = -22, -12

Call = tuple[int, ...]
"""slot, number, arguments."""


def via(design: str) -> str:
    """How a loader for the design adds pages: the guest's argument."""
    law = make_design(design)
    if law.abi == "v20":
        return "v20"
    if not hasattr(law, "add_region"):
        return "pages"
    if "create_sigstruct" in rules_of(law):
        return f"sigstruct={law.declarable}"
    return f"declared={law.declarable}" if law.declares else "region"


@cache
def _moves_heap() -> bool:
    """PR_SET_MM_MAP, which needs no privilege, is there (CONFIG_CHECKPOINT_RESTORE)."""
    size = c_uint()
    return ptrace.prctl(35, 15, addressof(size)) == 0  # PR_SET_MM, PR_SET_MM_MAP_SIZE


def _mask(text: str) -> int:
    return sum(1 << "rwx".index(c) for c in text)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


class Twin:
    """The processes of a walk under a design; `answer` does a call and foretells its answer.

    known: the advice that this machine's kernel knows.
    """

    def __init__(self, design: str, known: frozenset[int] = ALWAYS | BY_KERNEL) -> None:
        self.device = Device(make_design(design))
        self.known = known
        root = Process(self.device)
        root.mm = MmStruct(
            self.device.design, self.device.run, process=root, version=kernel_version()
        )
        self.fds = [self._build(root, via(design), place) for place in PLACES]
        self.slots: dict[int, Process] = {0: root.fork()}
        self.leaders = {0}
        self.files = [root.files[fd] for fd in self.fds]
        self.post: list[Any] = []
        self.brks = {self.slots[0]: HEAP}
        self.heap = kernel_version() >= (6, 1) and _moves_heap()
        self.sealing = kernel_version() >= (6, 10)
        self.remotely = kernel_version() >= (6, 13)

    # -- building ----------------------------------------------------------------------

    @staticmethod
    def _ioctl(process: Process, fd: int, cmd: int, data: bytes) -> int:
        where = process.memory.put(data)
        answer = process.ioctl(fd, cmd, where)
        process.memory.drop(where)
        return answer

    def _build(self, process: Process, how: str, place: int) -> int:
        base, memory = ARENA + place * PAGE, process.memory
        fd = process.open(self.device.design.paths[0])
        secs = memory.put(
            SECS.pack(
                size=ELRANGE_PAGES * PAGE, baseaddr=base, ssaframesize=1,
                attributes=ATTR_MODE64BIT, xfrm=3,
            )
        )  # fmt: skip
        cmd, arg = sgx.SGX_IOC_ENCLAVE_CREATE, sgx.ENCLAVE_CREATE.pack(src=secs)
        if how.startswith("sigstruct"):
            cmd = uapi.SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT
            arg = uapi.CREATE_SIGSTRUCT.pack(src=secs, sigstruct=memory.put(bytes(SIGSTRUCT.size)))
        assert self._ioctl(process, fd, cmd, arg) == 0
        for i, kind in enumerate(PAGES):
            pt = PT_TCS if kind == "tcs" else PT_REG
            perm = 0 if kind == "tcs" else _mask(kind)
            prot = mman.PROT_READ | (mman.PROT_EXEC if "x" in kind else mman.PROT_WRITE)
            src = memory.put(bytes(72) + b"\xff\x0f\0\0\xff\x0f\0\0" + bytes(PAGE - 80), prot=prot)
            if kind == "tcs":
                data = bytearray(PAGE)
                data[28:32] = (1).to_bytes(4, "little")
                data[64:72] = b"\xff\x0f\0\0\xff\x0f\0\0"
                memory.drop(src)
                src = memory.put(bytes(data))
            secinfo = memory.put(SECINFO.pack(flags=perm | pt << SECINFO_PT_SHIFT))
            assert self._add(process, fd, how, i, base, src, secinfo, perm or 3) == 0, kind
            memory.drop(src)
            memory.drop(secinfo)
        memory.drop(secs)
        # EINIT, which no rule here is about: nobody denies it anything.
        enclave = process.files[fd].enclave
        enclave.__dict__.update(dict.fromkeys(self.device.design.enclave_fields, 1), initialized=1)
        return fd

    def _add(
        self, process: Process, fd: int, how: str, i: int, base: int, src: int, secinfo: int,
        segment: int,
    ) -> int:  # fmt: skip
        if how == "v20":
            arg = sgx.ADD_PAGE_V20.pack(
                addr=base + i * PAGE, src=src, secinfo=secinfo, mrmask=0xFFFF
            )
            return self._ioctl(process, fd, sgx.SGX_IOC_ENCLAVE_ADD_PAGE_V20, arg)
        if how == "pages":
            arg = sgx.ENCLAVE_ADD_PAGES.pack(
                src=src, offset=i * PAGE, length=PAGE, secinfo=secinfo, flags=1
            )
            return self._ioctl(process, fd, sgx.SGX_IOC_ENCLAVE_ADD_PAGES, arg)
        arg = uapi.ADD_REGION.pack(
            src=src, offset=i * PAGE, length=PAGE, secinfo=secinfo, flags=1,
            segment=segment & int(how.partition("=")[2] or 0),
        )  # fmt: skip
        return self._ioctl(process, fd, uapi.SGX_IOC_ADD_REGION, arg)

    # -- calls -------------------------------------------------------------------------

    def answer(self, call: Call) -> int | None:
        """What the guest prints for a call; None where that is nobody's to say."""
        slot, number, *args = call
        args += [0] * (6 - len(args))
        process = self.slots[slot]
        how = _CALLS.get(number)
        assert how is not None, f"no call {number}"
        answer: int | None = how(self, process, *args)
        return answer

    def only_special(self, slot: int, start: int, length: int) -> bool:
        """Only enclaves and holes are in the range."""
        end = start + (length + PAGE - 1 & -PAGE)
        return all(v.special for v in self.slots[slot].mm.overlapping(start & -PAGE, end))

    def foretold(self, call: Call) -> bool:
        """The model knows the answer whatever is there now: what `calls` draws."""
        slot, number = call[:2]
        if number == USERFAULT:
            there = self.slots[slot].mm.overlapping(call[2], call[2] + call[3])
            return call[3] <= 1 << 30 and any(v.special for v in there)
        looks = number == nr.NR_madvise or (number == nr.NR_mprotect and call[4] >> 24)
        if looks and 1 << 30 < call[3] < 1 << 63:
            return False  # what lies behind the arena is looked at, too
        if number == nr.NR_madvise and call[4] not in ADVICE_ANYWHERE:
            return self.only_special(slot, call[2], call[3])
        if number == nr.NR_mremap and any(v.flags & mman.VM_SEALED for v in self.slots[slot].mm):
            # Where a seal refuses a call, Linux has split a VMA before it; softsgx splits no
            # foreign one then, which shows in mremap alone.
            vma = self.slots[slot].mm.find(call[2])
            if vma is not None and not vma.special:
                return False
        if number in (nr.NR_mlock, nr.NR_munlock):
            return self.only_special(slot, call[2], call[3] + PAGE)
        return self.placed(call)

    def placed(self, call: Call) -> bool:
        """The call leaves the kernel no choice of a place, or fails."""
        if call[1] != nr.NR_mremap or call[5] & mman.MREMAP_FIXED:
            return True
        slot, _, start, old, new, flags, _ = call
        old, new = (n + PAGE - 1 & _U64 & -PAGE for n in (old, new))
        vma = self.slots[slot].mm.find(start)
        grows = new > old or not old or flags & mman.MREMAP_DONTUNMAP
        return not grows or vma is None or bool(vma.special) or not flags & 1

    def _mmap(
        self, p: Process, addr: int, length: int, prot: int, flags: int, fd: int, offset: int
    ) -> int:
        index = _signed(fd)
        file = self.files[index] if index >= 0 and not flags & mman.MAP_ANONYMOUS else None
        return int(self.device.mmap(p, addr, length, prot, flags, file, offset).ret)

    def _munmap(self, p: Process, addr: int, length: int, *_: int) -> int:
        return p.munmap(addr, length)

    def _mprotect(self, p: Process, addr: int, length: int, prot: int, *_: int) -> int:
        return p.mprotect(addr, length, prot)

    def _pkey_mprotect(
        self, p: Process, addr: int, length: int, prot: int, pkey: int, *_: int
    ) -> int:
        key = _signed(pkey)
        end = addr + (length + PAGE - 1 & _U64 & -PAGE) & _U64
        if key > 0 and not addr % PAGE and length and end > addr:
            return _EINVAL  # none is allocated
        return p.mprotect(addr, length, prot)

    def _mremap(
        self, p: Process, addr: int, old: int, new: int, flags: int, to: int, *_: int
    ) -> int:
        return p.mremap(addr, old, new, flags, to)

    def _madvise(self, p: Process, addr: int, length: int, advice: int, *_: int) -> int:
        return int(madvise(p.mm, addr, length, advice, self.known).ret)

    def _mseal(self, p: Process, addr: int, length: int, flags: int, *_: int) -> int:
        return int(mseal(p.mm, addr, length, flags).ret) if self.sealing else -38

    def _remap(
        self, p: Process, addr: int, size: int, prot: int, pgoff: int, flags: int, *_: int
    ) -> int:
        return int(remap_file_pages(p.mm, addr, size, prot, pgoff, flags).ret)

    @staticmethod
    def _range(addr: int, length: int) -> tuple[int, int]:
        return addr, addr + (length + PAGE - 1 & -PAGE)

    def _msync(self, p: Process, addr: int, length: int, flags: int, *_: int) -> int:
        if addr % PAGE or flags & ~7 or flags & 5 == 5:
            return _EINVAL
        start, end = self._range(addr, length)
        hole = 0
        for vma in p.mm.overlapping(start, end):
            if vma.start > start:
                if flags == 1:
                    return _ENOMEM
                hole = _ENOMEM
            start = vma.end
            if error := msync_errno(vma, flags):
                return -error
        return _ENOMEM if start < end else hole

    def _covered(self, p: Process, addr: int, length: int, *_: int) -> int:
        """mlock, munlock and mincore of a driver's memory: nothing, but a hole is ENOMEM."""
        start, end = self._range(addr, length)
        for vma in p.mm.overlapping(start, end):
            if vma.start > start:
                return _ENOMEM
            start = vma.end
        return 0 if start >= end else _ENOMEM

    def _mincore(self, p: Process, addr: int, length: int, *_: int) -> int:
        return _EINVAL if addr % PAGE else self._covered(p, addr, length)

    def _mlock(self, p: Process, addr: int, length: int, *_: int) -> int:
        return self._covered(p, addr & -PAGE, length + addr % PAGE)

    def _process_madvise(
        self, p: Process, a: int, n: int, b: int, m: int, advice: int, *_: int
    ) -> int:
        done = 0
        for addr, length in ((a, n), (b, m)):
            ret = self._madvise(p, addr, length, advice)
            if ret:
                return done or ret
            done += length
        return done

    def _shmat(self, p: Process, addr: int, flags: int, *_: int) -> int:
        """do_shmat(): a segment of two pages, unmapped again at once."""
        if addr % PAGE:
            if not flags & mman.SHM_RND:
                return _EINVAL
            addr &= -PAGE
        end = addr + 2 * PAGE
        if not flags & mman.SHM_REMAP and any(p.mm.overlapping(addr, end)):
            return _EINVAL
        return p.munmap(addr, 2 * PAGE) or addr

    def _brk(self, p: Process, to: int, *_: int) -> int:
        """The new end, or the old one: Linux's brk(), do_brk_flags()."""
        was = self.brks[p]
        if to < HEAP:
            return was
        end, new = (n + PAGE - 1 & -PAGE for n in (was, to))
        if new > end:
            if p.mm.no_room or any(p.mm.overlapping(end, new + PAGE)):
                return was
            how = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED
            assert self.device.mmap(p, end, new - end, 3, how, None, 0).ret == end
            if end == HEAP:
                p.mm.vmas.cut(HEAP)  # what lies before the heap is not extended
        elif new < end and (not any(p.mm.overlapping(new, end)) or p.munmap(new, end - new)):
            return was
        self.brks[p] = to
        return to

    def _limited(self, p: Process, number: int, *args: int) -> int:
        """A call while RLIMIT_AS is passed already: may_expand_vm() is what asks."""
        p.mm.no_room = 12
        answer: int = _CALLS[number](self, p, *args, 0)
        p.mm.no_room = 0
        return answer

    def _userfault(self, p: Process, *_: int) -> int:
        """vma_can_userfault(): no driver's memory, and there is some in the range."""
        return _EINVAL

    def _fork(self, p: Process, slot: int, *_: int) -> int:
        self.slots[slot] = child = p.fork()
        self.brks[child] = self.brks[p]
        self.leaders.add(slot)
        return 0

    def _thread(self, p: Process, slot: int, *_: int) -> int:
        self.slots[slot] = p
        return 0

    def _exit(self, p: Process, *_: int) -> int:
        p.exit()
        del self.brks[p]
        self.slots = {k: q for k, q in self.slots.items() if q is not p}
        return 0

    def _touch(self, p: Process, addr: int, *_: int) -> int | None:
        vma = p.mm.find(addr)
        if vma is None or not vma.prot:
            return -11
        return None  # an enclave's, a neighbour's content, behind the end of shared memory

    def _send(self, p: Process, index: int, *_: int) -> int:
        self.post.append(index)
        return 0

    def _receive(self, p: Process, index: int, *_: int) -> int:
        """The walk sends an fd to where it has the same number."""
        self.post.pop(0)
        return 0

    def _ioc_mprotect(
        self, p: Process, index: int, addr: int, length: int, prot: int, *_: int
    ) -> int:
        data = uapi.MPROTECT.pack(addr=addr, length=length, prot=prot)
        return self._ioctl(p, self.fds[index], uapi.SGX_IOC_MPROTECT, data)

    def _map_segment(
        self, p: Process, index: int, addr: int, length: int, prot: int, segment: int, *_: int
    ) -> int:
        data = uapi.MAP_SEGMENT.pack(addr=addr, length=length, segment=segment, prot=prot)
        return self._ioctl(p, self.fds[index], uapi.SGX_IOC_MAP_SEGMENT, data)

    def _restrict(
        self, p: Process, index: int, offset: int, length: int, perm: int, *_: int
    ) -> int:
        data = sgx.ENCLAVE_RESTRICT_PERMISSIONS.pack(offset=offset, length=length, permissions=perm)
        return self._ioctl(p, self.fds[index], sgx.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, data)

    def _types(self, p: Process, index: int, offset: int, length: int, pt: int, *_: int) -> int:
        data = sgx.ENCLAVE_MODIFY_TYPES.pack(offset=offset, length=length, page_type=pt)
        return self._ioctl(p, self.fds[index], sgx.SGX_IOC_ENCLAVE_MODIFY_TYPES, data)


_CALLS: dict[int, Any] = {
    nr.NR_mmap: Twin._mmap,
    nr.NR_munmap: Twin._munmap,
    nr.NR_mprotect: Twin._mprotect,
    nr.NR_pkey_mprotect: Twin._pkey_mprotect,
    nr.NR_mremap: Twin._mremap,
    nr.NR_madvise: Twin._madvise,
    nr.NR_mseal: Twin._mseal,
    nr.NR_remap_file_pages: Twin._remap,
    nr.NR_msync: Twin._msync,
    nr.NR_mincore: Twin._mincore,
    nr.NR_brk: Twin._brk,
    nr.NR_mlock: Twin._mlock,
    nr.NR_munlock: Twin._mlock,
    FORK: Twin._fork,
    THREAD: Twin._thread,
    EXIT: Twin._exit,
    TOUCH: Twin._touch,
    SEND: Twin._send,
    RECV: Twin._receive,
    MPROTECT: Twin._ioc_mprotect,
    MAP_SEGMENT: Twin._map_segment,
    RESTRICT: Twin._restrict,
    TYPES: Twin._types,
    PROCESS_MADVISE: Twin._process_madvise,
    SHMAT: Twin._shmat,
    MAP_LOCKED: Twin._mmap,
    USERFAULT: Twin._userfault,
    LIMITED: Twin._limited,
}
