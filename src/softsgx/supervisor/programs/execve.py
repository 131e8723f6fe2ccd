"""At exec: our vDSO goes in, and CPUID is made to trap.

CPUID faulting (ARCH_SET_CPUID) is used where the kernel offers it. Elsewhere
the instruction's bytes are replaced (`patches`).
"""

from __future__ import annotations

import struct

from softsgx.host import cpuidcode, procmaps, vdso
from softsgx.supervisor.programs.answers import page
from softsgx.supervisor.programs.patches import patch
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.answer import cont
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RSP

__all__ = ["exec_stop"]

_AT_SYSINFO_EHDR = 33
_ARCH_SET_CPUID = 0x1012
_PROT_READ_EXEC, _MAP_PRIVATE_ANONYMOUS = 5, 0x22
_TRANSLATORS = "/valgrind/"


def exec_stop(run: Run, tracee: Tracee) -> None:
    """From PTRACE_EVENT_EXEC: prepare the new program, then let it run."""
    regs = run.regs
    Remote.step(tracee.tid)  # to the exit of execve
    regs.load(tracee.tid)
    space = tracee.space
    slot, real = _find_vdso_slot(space, run.view[RSP])
    if slot == 0:  # a 32-bit program, or a kernel without vDSO
        cont(run, tracee)
        return
    maps = procmaps.executable(tracee.tgid)
    size = next((m.end - m.start for m in maps if m.start == real), 0)
    contents = space.peek(real, size)
    insn = vdso.find_syscall_insn(contents)
    if insn is None:
        cont(run, tracee)
        return
    img = vdso.load_image()
    with Remote(tracee, real + insn, regs) as call:
        base = call(nr.NR_mmap, 0, img.whole, _PROT_READ_EXEC, _MAP_PRIVATE_ANONYMOUS, -1, 0)
        if base < 0:
            base = 0
        elif run.options.cpuid and run.cpuid_faulting:
            space.native_cpuid = call(nr.NR_arch_prctl, _ARCH_SET_CPUID, 0) < 0
            run.cpuid_faulting = not space.native_cpuid  # the processor has it or not
    if base:
        space.poke(base, img.contents)
        space.poke(base + img.data_offset, vdso.slots(contents, real, base))
        space.poke(slot, struct.pack("<Q", base))
        space.image, space.aep = base, base + img.aep
    if base and run.options.cpuid and space.native_cpuid:
        _patch(run, space, tracee.tgid, maps)
    cont(run, tracee)


def _patch(run: Run, space: AddressSpace, tgid: int, maps: list[procmaps.Mapping]) -> None:
    """CPUID in what exec has mapped, which is all stopped: it may be led to its answers."""
    code = [m for m in maps if m.inode and not m.shared]
    # valgrind's tools answer CPUID themselves, and stumble at what we make of it.
    space.translates = any(_TRANSLATORS in m.path for m in code)
    usual = not run.options.exact and run.record is None and not space.translates
    answers = page(run) if usual else b""
    for m in code:
        # map_files needs a capability; the name may do.
        exact = f"/proc/{tgid}/map_files/{m.start:x}-{m.end:x}"
        named = f"/proc/{tgid}/root{m.path}"
        patch(run, space, (exact, named), m.start, m.end, m.offset, lead=bool(answers))
    if space.stubs:
        space.poke(space.image + cpuidcode.load().tables, answers)


def _find_vdso_slot(space: AddressSpace, sp: int) -> tuple[int, int]:
    """Where on the new stack AT_SYSINFO_EHDR's value lies, and the value; (0, 0) if nowhere."""
    raw = space.peek(sp, 4096 - sp % 4096)
    while True:
        words = struct.unpack(f"<{len(raw) // 8}Q", raw[: len(raw) & -8])
        try:
            at = words.index(0, words.index(0, 1) + 1) + 1  # behind arguments and environment
            while True:
                if words[at] == _AT_SYSINFO_EHDR:
                    return sp + 8 * at + 8, words[at + 1]
                if words[at] == 0:
                    return 0, 0
                at += 2
        except (ValueError, IndexError):  # there is more
            more = space.peek(sp + len(raw), 65536) or space.peek(sp + len(raw), 4096)
            if not more:
                return 0, 0
            raw += more
