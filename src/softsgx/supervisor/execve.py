"""At exec: our vDSO goes in, and CPUID is made to trap.

CPUID faulting (ARCH_SET_CPUID) is used where the kernel offers it. Elsewhere
the instruction's bytes become UD2 in executable file mappings as they appear;
the originals are remembered, since what a loader copies into an enclave has to
be what is in the file.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left, insort

from softsgx.host import cpuidsites, procmaps, ptrace, vdso
from softsgx.supervisor.dispositions import was_reset
from softsgx.supervisor.remote import Remote, scratch
from softsgx.supervisor.tracee import AddressSpace, Tracee
from softsgx.supervisor.waits import wait_stop
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R9, RAX, RBX, RCX, RDX, RIP, RSP

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from softsgx.supervisor.loop import Supervisor

__all__ = ["emulate_cpuid", "exec_stop", "image", "patch_mapping", "unpatched"]

_AT_SYSINFO_EHDR = 33
_ARCH_SET_CPUID = 0x1012
_PROT_READ_EXEC, _MAP_PRIVATE_ANONYMOUS = 5, 0x22
_SIGILL, _SIGSEGV = 4, 11

image = vdso.load_image


def exec_stop(sup: Supervisor, tracee: Tracee) -> None:
    """From PTRACE_EVENT_EXEC: prepare the new program, then let it run."""
    regs = sup.regs
    Remote.step(tracee.tid)  # to the exit of execve
    regs.load(tracee.tid)
    space = tracee.space
    slot, real = _find_vdso_slot(space, sup.view[RSP])
    if slot == 0:  # a 32-bit program, or a kernel without vDSO
        sup.cont(tracee)
        return
    maps = procmaps.maps(tracee.tgid)
    size = next((m.end - m.start for m in maps if m.start == real), 0)
    contents = space.peek(real, size)
    insn = vdso.find_syscall_insn(contents)
    if insn is None:
        sup.cont(tracee)
        return
    img = vdso.load_image()
    with Remote(tracee, real + insn, regs) as call:
        base = call(nr.NR_mmap, 0, img.size, _PROT_READ_EXEC, _MAP_PRIVATE_ANONYMOUS, -1, 0)
        if base < 0:
            base = 0
        elif sup.options.cpuid and sup.cpuid_faulting:
            space.native_cpuid = call(nr.NR_arch_prctl, _ARCH_SET_CPUID, 0) < 0
            sup.cpuid_faulting = not space.native_cpuid  # the processor has it or not
    if base:
        space.poke(base, img.contents)
        space.poke(base + img.data_offset, vdso.slots(contents, real, base))
        space.poke(slot, struct.pack("<Q", base))
        space.image, space.aep, space.entry = base, base + img.enclu, base + img.enclu_end
    if sup.options.cpuid and space.native_cpuid:
        for m in maps:
            if m.prot & 4 and m.inode and not m.shared:
                # map_files needs a capability; the name may do.
                exact = f"/proc/{tracee.tgid}/map_files/{m.start:x}-{m.end:x}"
                named = f"/proc/{tracee.tgid}/root{m.path}"
                _patch(sup, space, (exact, named), m.start, m.end, m.offset)
    sup.cont(tracee)


def _find_vdso_slot(space: AddressSpace, sp: int) -> tuple[int, int]:
    """Where on the new stack AT_SYSINFO_EHDR's value lies, and the value; (0, 0) if nowhere."""
    raw = space.peek(sp, 4096 - sp % 4096)
    at, zeros = 8, 0
    while True:
        while at + 16 > len(raw):
            more = space.peek(sp + len(raw), 65536) or space.peek(sp + len(raw), 4096)
            if not more:
                return 0, 0
            raw += more
        (word,) = struct.unpack_from("<Q", raw, at)
        if zeros < 2:
            zeros += word == 0
            at += 8
            continue
        key, value = struct.unpack_from("<QQ", raw, at)
        if key == _AT_SYSINFO_EHDR:
            return sp + at + 8, value
        if key == 0:
            return 0, 0
        at += 16


def _patch(
    sup: Supervisor, space: AddressSpace, paths: tuple[str, ...], start: int, end: int, offset: int
) -> None:
    """Replace the CPUID instructions of one executable file mapping.

    paths: of the file, to be tried in turn.
    """
    found: tuple[int, ...] = ()
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError):
            continue
        try:
            found = _sites(sup, fd)
        except (OSError, ValueError):
            pass
        finally:
            os.close(fd)
        break
    here = [start + s - offset for s in found if offset <= s <= offset + end - start - 2]
    at = 0
    while at < len(here):  # a page at a time: two calls for all its sites
        first = here[at]
        behind = bisect_left(here, (first | 0xFFF) + 1, at)
        was = space.peek(first, here[behind - 1] + 2 - first)
        code = bytearray(was)
        for addr in here[at:behind]:
            if code[addr - first : addr - first + 2] == cpuidsites.CPUID_BYTES:
                code[addr - first : addr - first + 2] = cpuidsites.UD2_BYTES
                if addr not in space.patched:
                    insort(space.patched, addr)
        if code != was:
            space.poke(first, code)
        at = behind


def _sites(sup: Supervisor, fd: int) -> tuple[int, ...]:
    """The CPUID instructions of a file, looked for once a run: most processes map the same few."""
    s = os.fstat(fd)
    key = (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
    found = sup.cpuid_sites.get(key)
    if found is None:
        found = cpuidsites.sites(fd, 0, s.st_size, sup.cache_dir)
        sup.cpuid_sites[key] = found
    return found


def patch_mapping(sup: Supervisor, tracee: Tracee, fd: int, length: int) -> None:
    """From the seccomp stop of an mmap(PROT_EXEC) of a file: let it be made, then patch it."""
    regs = sup.regs
    offset = sup.view[R9]
    Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
    regs.load(tracee.tid)
    addr = sup.view[RAX]
    if addr < 1 << 47 and not addr & 0xFFF:
        end = addr + (length + 4095 & -4096)
        _patch(sup, tracee.space, (f"/proc/{tracee.tgid}/fd/{fd}",), addr, end, offset)
    sup.cont(tracee)


def emulate_cpuid(sup: Supervisor, tracee: Tracee, number: int) -> bool:
    """From a SIGILL or SIGSEGV outside an enclave: answer if it was a CPUID. Uses ``sup.regs``."""
    space, view = tracee.space, sup.view
    if not space.image:
        return False
    rip = view[RIP]
    code = space.peek(rip, 16)
    if number == _SIGILL:
        length = cpuidsites.trap_length(code)
        if not length or rip + length - 2 not in space.patched:
            return False
    elif number == _SIGSEGV and not space.native_cpuid:
        length = cpuidsites.cpuid_length(code)
        if not length:
            return False
    else:
        return False
    leaf, subleaf = view[RAX] & 0xFFFFFFFF, view[RCX] & 0xFFFFFFFF
    answer = sup.cpuid_answers.get((leaf, subleaf))
    if answer is None:
        answer = _answer(sup, tracee, leaf, subleaf)
        if leaf not in _PER_CORE and len(sup.cpuid_answers) < _MAX_ANSWERS:
            sup.cpuid_answers[leaf, subleaf] = answer
    view[RAX], view[RBX], view[RCX], view[RDX] = answer
    view[RIP] = rip + length
    if sup.record is not None:
        sup.record.cpuid(tracee.tid, leaf, subleaf, answer)
    if number in tracee.signals.actions and was_reset(tracee, number):
        action = tracee.signals.actions[number]
        view[ORIG_RAX] = (1 << 64) - 1
        with Remote(tracee, space.image + vdso.load_image().syscall, sup.regs) as call:
            where = scratch(space)
            space.poke(where, action)
            call(nr.NR_rt_sigaction, number, where, 0, 8)
    tracee.stopped = False
    sup.regs.store_and_cont(tracee.tid)
    return True


def _answer(sup: Supervisor, tracee: Tracee, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    from softsgx.sdm import cpuid

    if not sup.cpuid_highest:
        sup.cpuid_highest = _execute(sup, tracee, 0, 0)[0]
    native = _execute(sup, tracee, leaf, subleaf)
    sgx2, aexnotify, xfrm = True, True, 3
    if leaf == cpuid.SGX_LEAF:
        device = sup.load_sgx().device
        sgx2, aexnotify = device.design.sgx2, device.design.aexnotify
        xfrm = device.xfrm_supported
    highest, epc = sup.cpuid_highest, sup.options.epc_bytes
    return cpuid.emulate(
        leaf, subleaf, native, epc, sgx2, native_max=highest, xfrm=xfrm, aexnotify=aexnotify
    )


# Topology, and what the two kinds of cores of a hybrid processor tell of themselves: each core
# answers for itself. Everything else is asked once a run.
_PER_CORE = frozenset((1, 4, 0xB, 0x18, 0x1A, 0x1F, 0x8000001E, 0x80000026))
_MAX_ANSWERS = 4096


def _execute(sup: Supervisor, tracee: Tracee, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    """CPUID as the tracee's core answers it."""
    space, tid = tracee.space, tracee.tid
    img = vdso.load_image()
    work = sup.spare_regs
    view = work.view
    if not space.native_cpuid:
        with Remote(tracee, space.image + img.syscall, sup.regs) as call:
            call(nr.NR_arch_prctl, _ARCH_SET_CPUID, 1)
    view[:] = sup.view
    view[RAX], view[RCX], view[RIP] = leaf, subleaf, space.image + img.cpuid
    mask = ptrace.get_sigmask(tid)
    ptrace.set_sigmask(tid, ~(1 << 4) & (1 << 64) - 1)  # all but SIGTRAP
    work.store(tid)
    ptrace.singlestep(tid)
    wait_stop(tid)
    work.load(tid)
    ptrace.set_sigmask(tid, mask)
    if not space.native_cpuid:
        with Remote(tracee, space.image + img.syscall, sup.regs) as call:
            call(nr.NR_arch_prctl, _ARCH_SET_CPUID, 0)
    low = 0xFFFFFFFF
    return view[RAX] & low, view[RBX] & low, view[RCX] & low, view[RDX] & low


def unpatched(space: AddressSpace, addr: int, data: bytes) -> bytes:
    """``data`` as it would read without our patches; ``addr`` is where it was read."""
    sites = space.patched  # ascending
    if not sites or addr > sites[-1] + 1 or addr + len(data) <= sites[0]:
        return data
    fixed = None
    for i in range(bisect_left(sites, addr - 1), bisect_left(sites, addr + len(data))):
        for k, was in enumerate(cpuidsites.CPUID_BYTES):
            at = sites[i] + k - addr
            if 0 <= at < len(data) and data[at] == cpuidsites.UD2_BYTES[k]:
                fixed = bytearray(data) if fixed is None else fixed
                fixed[at] = was
    return data if fixed is None else bytes(fixed)
