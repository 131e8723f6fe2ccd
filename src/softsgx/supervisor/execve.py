"""At exec: our vDSO goes in, and CPUID is made to trap.

CPUID faulting (ARCH_SET_CPUID) is used where the kernel offers it. Elsewhere
the instruction's bytes become UD2 in executable file mappings as they appear;
the originals are remembered, since what a loader copies into an enclave has to
be what is in the file.
"""

from __future__ import annotations

import struct

from softsgx.host import cpuidsites, procmaps, ptrace, vdso
from softsgx.supervisor.remote import Remote, wait_stop
from softsgx.supervisor.tracee import AddressSpace, Tracee
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import R9, RAX, RBX, RCX, RDX, RIP, RSP

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from softsgx.supervisor.loop import Supervisor

__all__ = ["emulate_cpuid", "exec_stop", "image", "patch_mapping"]

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
        elif sup.options.cpuid:
            space.native_cpuid = call(nr.NR_arch_prctl, _ARCH_SET_CPUID, 0) < 0
    if base:
        space.poke(base, img.contents)
        space.poke(base + img.data_offset, vdso.slots(contents, real, base))
        space.poke(slot, struct.pack("<Q", base))
        space.image = base
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
            found = cpuidsites.sites(path, offset, end - start, sup.cache_dir)
            break
        except (OSError, ValueError):
            continue
    for site in found:
        addr = start + site - offset
        if space.peek(addr, 2) == cpuidsites.CPUID_BYTES:
            space.poke(addr, cpuidsites.UD2_BYTES)
            if addr not in space.patched:
                space.patched.append(addr)
    space.patched.sort()


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
    answer = _answer(sup, tracee, leaf, subleaf)
    view[RAX], view[RBX], view[RCX], view[RDX] = answer
    view[RIP] = rip + length
    sup.regs.store(tracee.tid)
    if sup.record is not None:
        sup.record.cpuid(tracee.tid, leaf, subleaf, answer)
    sup.cont(tracee)
    return True


def _answer(sup: Supervisor, tracee: Tracee, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    from softsgx.sdm import cpuid

    native = _native(sup, tracee, leaf, subleaf)
    sgx2, xfrm = True, 3
    if leaf == cpuid.SGX_LEAF:
        device = sup.load_sgx().device
        sgx2, xfrm = device.design.sgx2, device.xfrm_supported
    highest = _native(sup, tracee, 0, 0)[0]
    epc = sup.options.epc_bytes
    return cpuid.emulate(
        leaf, subleaf, native, epc, sgx2, native_max=highest, xfrm=xfrm, edeccssa=sgx2
    )


_PER_CORE = frozenset((1, 0xB, 0x1F, 0x8000001E))


def _native(sup: Supervisor, tracee: Tracee, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    """CPUID as the tracee's core answers it; remembered where all cores answer alike."""
    known = sup.cpuid_answers.get((leaf, subleaf))
    if known is None:
        known = _execute(sup, tracee, leaf, subleaf)
        if leaf not in _PER_CORE:
            sup.cpuid_answers[leaf, subleaf] = known
    return known


def _execute(sup: Supervisor, tracee: Tracee, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    space, tid = tracee.space, tracee.tid
    img = vdso.load_image()
    work = ptrace.Registers()
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
    from bisect import bisect_left

    fixed = None
    for i in range(bisect_left(sites, addr - 1), bisect_left(sites, addr + len(data))):
        for k, was in enumerate(cpuidsites.CPUID_BYTES):
            at = sites[i] + k - addr
            if 0 <= at < len(data) and data[at] == cpuidsites.UD2_BYTES[k]:
                fixed = bytearray(data) if fixed is None else fixed
                fixed[at] = was
    return data if fixed is None else bytes(fixed)
