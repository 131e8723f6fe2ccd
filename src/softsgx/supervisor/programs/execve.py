"""At exec: our vDSO goes in, CPUID is made to trap, and calls on paths are led past their stop.

CPUID faulting (ARCH_SET_CPUID) is used where the kernel offers it. Elsewhere
the instruction's bytes are replaced (`patches`).
"""

from __future__ import annotations

import struct

from softsgx.host import cpuidcode, pathcode, procmaps, vdso
from softsgx.supervisor.programs import pathsites
from softsgx.supervisor.programs.answers import page
from softsgx.supervisor.programs.patches import file_key, names_of, patch
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.answer import cont
from softsgx.supervisor.stopped.atexec import at_exec
from softsgx.supervisor.stopped.remote import Remote, cancel
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RAX, RSP

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from softsgx.host.library import Library
    from softsgx.supervisor.programs.again import Again, Prepared
    from softsgx.supervisor.programs.pathsites import Near
    from softsgx.supervisor.stopped.atexec import Call

__all__ = ["exec_stop"]

_AT_PHDR, _AT_PHNUM, _AT_BASE, _AT_SYSINFO_EHDR = 3, 5, 7, 33
_PHDR, _MOST_PHDRS = struct.Struct("<IIQQQQQQ"), 64  # elf(5)
_PT_LOAD, _PT_PHDR, _PF_X, _PAGE = 1, 6, 1, 4096
_FAR = 1 << 30
_ARCH_SET_CPUID = 0x1012
_PROT_READ_EXEC, _MAP_PRIVATE_ANONYMOUS, _MAP_FIXED_NOREPLACE = 5, 0x22, 0x100000
_TRANSLATORS = "/valgrind/"
_STACK_BYTES = 3072  # for most programs: the addresses of arguments and environment, and all else
_MINUS_1 = (1 << 64) - 1
_WORD = struct.Struct("<Q")
_FEW = 3
_contents = b""


def exec_stop(run: Run, tracee: Tracee) -> None:
    """From PTRACE_EVENT_EXEC: prepare the new program, then let it run."""
    regs, space = run.regs, tracee.space
    known = _again(run)
    if space.paths.held:  # what is prepared again knows of no descriptors
        known = None
    done = known.tried(tracee) if known is not None else None
    if done:
        return
    if done is None:
        regs.load(tracee.tid)
    slot, real, interpreter = _auxv(space, run.view[RSP])
    if slot == 0:  # a 32-bit program, or a kernel without vDSO
        cont(run, tracee)
        return
    maps, low = procmaps.executable(tracee.tgid, interpreter)
    size = next((m.end - m.start for m in maps if m.start == real), 0)
    contents = _real_vdso(space, real, size)
    insn = vdso.find_syscall_insn(contents)
    if insn is None:
        cont(run, tracee)
        return
    insn += real
    img = vdso.load_image()
    base, wished = 0, low - img.whole
    if space.like and wished > pathcode.ALIGN:
        wished -= (wished - space.like) % pathcode.ALIGN
    # A debugger looks at the exit; a filter of the program's own may forbid what `at_exec` ends by.
    calls: list[Call] = []
    if known is not None and done is not None:
        calls = _calls(run, tracee, wished)
        base = _called(run, tracee, insn, calls, known.block["made"], known.answer)
    elif low > img.whole and run.debugger is None and not run.confined:
        run.view[ORIG_RAX], run.view[RAX] = _MINUS_1, 0  # as they are behind the call
        calls = _calls(run, tracee, wished)
        made, answer = at_exec(tracee, real, contents, calls, regs)
        base = _called(run, tracee, insn, calls, made, answer)
    else:
        Remote.step(tracee.tid)
        regs.load(tracee.tid)
    usual = base > 0
    if not base:
        base = _map(run, tracee, insn)
    if base:
        space.poke(base, vdso.mapped(contents, real, base))
        space.poke(slot, _WORD.pack(base))
        space.image, space.aep = base, base + img.aep
        prepared = _patch(run, tracee, maps)
        if known is not None and usual and done is None and prepared is not None:
            known.seen(tracee, interpreter, (real, contents), calls, *prepared)
    if tracee.at_call:
        tracee.at_call = False
        regs.store(tracee.tid)
    cont(run, tracee)


def _again(run: Run) -> Again | None:
    """What prepares a program again, from the `_FEW`th on: before it is not worth its own start."""
    run.programs += 1
    if run.programs < _FEW or run.filtered or run.confined:
        return None
    if run.execs is None:
        from softsgx.supervisor.programs.again import again

        run.execs = again(run) or False
    found: Again | None = run.execs or None
    return found


def _calls(run: Run, tracee: Tracee, base: int) -> list[Call]:
    """What has to be called for: memory for what is ours, at ``base`` and for paths, and CPUID."""
    flags = _MAP_PRIVATE_ANONYMOUS | _MAP_FIXED_NOREPLACE
    size = vdso.load_image().whole
    calls = [(nr.NR_mmap, base, size, _PROT_READ_EXEC, flags, -1, 0, base)]
    paths = pathsites.place_below(run, tracee, base)
    if paths:
        calls.append((nr.NR_mmap, paths, pathcode.SIZE, _PROT_READ_EXEC, flags, -1, 0, paths))
    if run.options.cpuid and run.cpuid.faulting:
        calls.append((nr.NR_arch_prctl, _ARCH_SET_CPUID, 0, 0, 0, 0, 0, 0))
    return calls


def _called(run: Run, tracee: Tracee, insn: int, calls: list[Call], made: int, answer: int) -> int:
    """So many of them were answered as they were to be: where what is ours is, 0 for nowhere."""
    faulting = calls[-1][0] == nr.NR_arch_prctl
    maps = len(calls) - faulting
    if maps > 1 and made >= maps:
        pathsites.prepare(run, tracee, calls[1][1])
    elsewhere = made < len(calls) and calls[made][0] == nr.NR_mmap and answer > 0
    if tracee.at_call and (made == 0 or elsewhere):
        tracee.at_call = False
        cancel(run, tracee)
    if elsewhere:  # before Linux 4.17
        with Remote(tracee, insn, run.regs) as call:
            call(nr.NR_munmap, answer, calls[made][2])
    if made >= maps and faulting:
        tracee.space.native_cpuid = made == maps
        run.cpuid.faulting = made > maps  # the processor has it or not
    return calls[0][1] if made else 0


def _map(run: Run, tracee: Tracee, insn: int) -> int:
    """The same by a call at a time, wherever the kernel likes: the address, 0 without memory."""
    space = tracee.space
    with Remote(tracee, insn, run.regs) as call:
        whole = vdso.load_image().whole
        base = call(nr.NR_mmap, 0, whole, _PROT_READ_EXEC, _MAP_PRIVATE_ANONYMOUS, -1, 0)
        if base > 0 and run.options.cpuid and run.cpuid.faulting:
            space.native_cpuid = call(nr.NR_arch_prctl, _ARCH_SET_CPUID, 0) < 0
            run.cpuid.faulting = not space.native_cpuid
    return max(base, 0)


def _patch(
    run: Run, tracee: Tracee, maps: list[procmaps.Mapping]
) -> tuple[list[Prepared], bytes, Library | None] | None:
    """What exec has mapped, which is all stopped: CPUID, which may be led, and calls on paths.

    What was done, the answers of CPUID that are led to, and the library that is expected; None if
    it would not be done again.
    """
    space = tracee.space
    code = [m for m in maps if m.inode and not m.shared]
    # valgrind's tools answer CPUID themselves, and stumble at what we make of it.
    space.translates = any(_TRANSLATORS in m.path for m in code)
    traps = run.options.cpuid and space.native_cpuid
    usual = traps and not run.options.exact and run.record is None and not space.translates
    answers = page(run) if usual else b""
    prepared: list[Prepared] | None = None if space.translates else []
    for m in code:
        names, plan = names_of(tracee.tgid, m), None
        if traps:
            whole = [each for each in code if (each.dev, each.inode) == (m.dev, m.inode)]
            room = None
            if answers and run.programs < _FEW and abs(m.start - space.image) > _FAR:
                room = _room(space, run.view[RSP], m)
            key, plan = patch(run, space, m, names, whole, lead=bool(answers), room=room)
        else:
            key = file_key(names)
        known = None if space.translates else run.paths.sites.get(key)
        nears: list[Near] | None = []
        if known and space.paths.base > 0 and m.perms == "r-xp" and key[1] == m.inode:
            nears = pathsites.lead_known(run, tracee, m, known, key)
        if nears is None or key is None:
            prepared = None
        if prepared is not None:
            prepared.append((m, key, plan, nears or []))
    if not space.stubs and not space.far:
        answers = b""
    elif answers:
        space.poke(space.image + cpuidcode.load().tables, answers)
        pathsites.tell_lookup(tracee)
    library = None if space.translates else pathsites.expect_library(run, tracee)
    return None if prepared is None else (prepared, answers, library)


def _room(space: AddressSpace, sp: int, m: procmaps.Mapping) -> tuple[int, int] | None:
    """What is nobody's in the last page of the program's code, from its mapping's start: (first
    byte, last byte + 1).

    Its program headers tell where the code ends. The file's next bytes are behind it, or zeros;
    if they are another segment's, that is mapped elsewhere.
    """
    raw = space.peek(sp, _STACK_BYTES)
    first = _entry(raw, _AT_SYSINFO_EHDR, 8, 8)
    found = [_entry(raw, kind, first, 16) for kind in (_AT_PHDR, _AT_PHNUM)] if first else [0]
    if not all(found) or len(raw) < max(found) + 16:
        return None
    at, count = (_WORD.unpack_from(raw, where + 8)[0] for where in found)
    rows = space.peek(at, _PHDR.size * min(count, _MOST_PHDRS))
    headers = list(_PHDR.iter_unpack(rows[: len(rows) // _PHDR.size * _PHDR.size]))
    own = next((vaddr for kind, _, _, vaddr, *_ in headers if kind == _PT_PHDR), None)
    for kind, flags, _, vaddr, _, filesz, memsz, _ in headers:
        if own is None or kind != _PT_LOAD or not flags & _PF_X or filesz != memsz:
            continue
        end = at - own + vaddr + filesz
        if m.start < end <= m.end and m.end - end < _PAGE:
            return end + 15 - m.start & -16, m.end - m.start
    return None


def _auxv(space: AddressSpace, sp: int) -> tuple[int, int, int]:
    """Where on the new stack AT_SYSINFO_EHDR's value lies, that, and AT_BASE's; 0 if nowhere.

    Both are there, in this order (create_elf_tables(), Linux 6.1); their numbers are no addresses,
    as all is that stands before them.
    """
    raw = space.peek(sp, _STACK_BYTES)
    while True:
        first = _entry(raw, _AT_SYSINFO_EHDR, 8, 8)
        base = _entry(raw, _AT_BASE, first, 16) if first else 0
        if base and len(raw) >= base + 16:
            (real,), (interpreter,) = (_WORD.unpack_from(raw, at + 8) for at in (first, base))
            return sp + first + 8, real, interpreter
        more = space.peek(sp + len(raw), 65536) or space.peek(sp + len(raw), 1024)
        if not more:
            return 0, 0, 0
        raw += more


def _entry(raw: bytes, number: int, start: int, step: int) -> int:
    """Where a word is, some steps behind a start; 0 if nowhere."""
    wanted = _WORD.pack(number)
    at = raw.find(wanted, start)
    while at > 0 and (at - start) % step:
        at = raw.find(wanted, at + 1)
    return max(at, 0)


def _real_vdso(space: AddressSpace, start: int, size: int) -> bytes:
    """What the kernel has mapped, read whole if it is another: there is one a boot and kind."""
    global _contents  # noqa: PLW0603 - what every exec would read anew
    head = _contents[: vdso.HEAD_BYTES]
    if len(_contents) != size or space.peek(start, vdso.HEAD_BYTES) != head:
        _contents = space.peek(start, size)
    return _contents
