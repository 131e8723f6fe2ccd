"""Which of a file's ``0f a2`` byte pairs are CPUID instructions: function bounds and decoding.

x86 code can only be told from its operands by decoding from a place that is known to be an
instruction.  Such places, best first: the start of a function in .eh_frame (stripped files
have it too, sorted, in .eh_frame_hdr), a symbol, the start of a section, of a segment.
Loaded by cpuidsites only for a file that has the two bytes and is not in the cache.

The decision, for a candidate that linear decoding finds to be an instruction:

* direct jumps reach it from a known entry: it is code;
* otherwise it may be code all the same (a switch's arm, a landing pad, a function that only
  pointers name) or a table behind a return: it counts only if its whole basic block looks like
  code, see ``_plausible``;
* a direct jump to its second byte, or decoding that failed or began in the middle and does not
  come together before it (``_converges``): it is ambiguous, and left alone.

With each comes where the ``mov`` of an immediate before it begins, if one is there for sure and
what stands between only moves between registers, or a conditional jump, or a store: it can be led
elsewhere (`softsgx.host.cpuidcode`). Where there is none a hole may be near (`cpuidholes`).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from mmap import mmap

from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from softsgx.host.cpuidcode import HOLE, first_length
from softsgx.host.cpuidholes import Holes, padding_end
from softsgx.host.elfbounds import STT_OBJECT, Image, Segment

__all__ = ["reached_sites", "true_sites"]

_Insn = tuple[int, str, str]

# How far to decode around a candidate when only a far start is known (a stripped file's
# section start): x86 decoding falls into step within some tens of bytes.
_WINDOW_BEFORE_BYTES = 1 << 14
_WINDOW_AFTER_BYTES = 1 << 12
_CONVERGE_BYTES = 96
_CONVERGE_STARTS = 16

# What may stand between a load and CPUID: nothing that depends on where it is, or can fault.
_MOVED_BYTES = 20
_BETWEEN = frozenset(("add", "mov", "sub", "xor"))
_REGISTERS = frozenset(
    f"{kind}{name}" for kind in "er" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp")
) | frozenset(f"r{n}{size}" for n in range(8, 16) for size in ("", "d"))

_BYTES = frozenset(("cl", "dl", "bl", "sil", "dil", "bpl"))

_STOPS = frozenset(("ret", "retf", "ud2", "hlt", "iretq", "iret", "sysretq", "jmp", "ljmp"))
# What no user-mode code contains, and what zeros and small integers decode to.
_IMPLAUSIBLE = frozenset(
    (
        *("in", "out", "insb", "insd", "outsb", "outsd", "cli", "sti", "hlt", "iretd", "iretq"),
        *("retf", "retfq", "ljmp", "lcall", "int", "int1", "into", "sysretq", "sysexitq", "clts"),
        *("wrmsr", "rdmsr", "invd", "wbinvd", "enter", "lgdt", "lidt", "ltr", "lldt", "icebp"),
    )
)


class _Flow:
    """The instructions of one region, decoded linearly, and what direct jumps reach."""

    def __init__(self, code: bytes, base: int, trusted_start: bool, entries: Iterable[int]) -> None:
        self.code = code
        self.base = base
        self.insns: dict[int, _Insn] = {}
        # Where decoding had to start again: instructions soon after one of these are not sure.
        self.breaks = [] if trusted_start else [base]
        at = 0
        while at < len(code):
            for address, size, mnemonic, operands in _disassemble(code[at:], base + at):
                self.insns[address] = (size, mnemonic, operands)
                at = address + size - base
            if at < len(code):
                at += 1
                self.breaks.append(base + at)
        self.targets = {
            target
            for _, mnemonic, operands in self.insns.values()
            if (target := _direct_target(mnemonic, operands)) is not None
        }
        self.reached = self._reach(entries)

    def _reach(self, entries: Iterable[int]) -> set[int]:
        reached: set[int] = set()
        work = list(entries)
        while work:
            at = work.pop()
            while at not in reached and (insn := self.insns.get(at)) is not None:
                reached.add(at)
                size, mnemonic, operands = insn
                target = _direct_target(mnemonic, operands)
                if target is not None:
                    work.append(target)
                if _stops(mnemonic):
                    break
                at += size
        return reached

    def is_site(self, candidate: int) -> bool:
        """Say whether the ``0f a2`` at this address is a CPUID instruction beyond doubt."""
        start = next(
            (at for at in range(candidate, candidate - 14, -1) if at in self.insns), candidate + 1
        )
        size, mnemonic, _ = self.insns.get(start, (0, "", ""))
        if mnemonic != "cpuid" or start + size != candidate + 2 or candidate + 1 in self.targets:
            return False
        if any(at <= start for at in self.breaks) and not self._converges(start):
            return False
        return start in self.reached or self._plausible(start)

    def is_plain(self, site: int) -> bool:
        """Whether the instruction there has two bytes."""
        return self.insns.get(site, (0,))[0] == 2

    def load_before(self, site: int) -> int:
        """Where what can be led elsewhere begins before a site, or the site itself."""
        if not self.is_plain(site) or site not in self.reached:
            return site
        end = site
        while (start := self._ending_at(end)) in self.reached and site - start <= _MOVED_BYTES:
            size, mnemonic, operands = self.insns[start]
            if first_length(self.code[start - self.base :][:size]) == size:
                inside = any(at in self.targets for at in range(start + 1, end))
                return site if inside else start
            sets = mnemonic[:3] == "set" and operands in _BYTES  # a stub changes no flag
            plain = mnemonic in _BETWEEN and all(map(_is_plain, operands.split(", ")))
            if not sets and not plain:
                break
            end = start
        return site

    def gaps(self) -> Iterator[tuple[int, int]]:
        """What is filled up behind a jump or a return, to where another piece of code begins."""
        if self.breaks:
            return
        for address, (size, mnemonic, _) in self.insns.items():
            start = address + size
            if not _stops(mnemonic) or start not in self.insns:
                continue
            end = self.base + padding_end(self.code, start - self.base)
            entered = any(at in self.targets or at in self.reached for at in range(start, end))
            if not entered:
                yield start, end

    def _ending_at(self, end: int) -> int:
        """The instruction that ends there, or -1."""
        for start in range(end - 1, end - 16, -1):
            if start in self.insns:
                return start if start + self.insns[start][0] == end else -1
        return -1

    def _converges(self, start: int) -> bool:
        """Say whether decoding from about a hundred bytes before comes out at ``start`` anyhow."""
        good = bad = 0
        for begin in range(start - _CONVERGE_BYTES, start - _CONVERGE_BYTES + _CONVERGE_STARTS):
            low = max(begin, self.base)
            at = low
            for address, size, _, _ in _disassemble(self.code[low - self.base :][:160], low):
                at = address + size
                if at >= start:
                    break
            good += at == start
            bad += at > start
        return good > 0 and bad == 0

    def _plausible(self, start: int) -> bool:
        """Say whether the basic block around ``start``, which no direct jump reaches, is code.

        It must have an instruction before CPUID (something chooses a leaf), end in a jump or
        a return, and hold nothing that user-mode code never does.
        """
        block = [start]
        for at in range(start - 1, self.base - 1, -1):
            if at not in self.insns:
                continue
            if at + self.insns[at][0] != block[0] or _stops(self.insns[at][1]):
                break
            # Padding up to a multiple of 16 is what precedes a function, whatever it follows.
            if self.insns[at][1] in ("nop", "int3") and block[0] % 16 == 0:
                break
            block.insert(0, at)
        # Padding is not what chooses a leaf.
        real = [at for at in block if self.insns[at][1] not in ("nop", "int3")]
        if real[0] == start:
            return False
        at = start
        while (insn := self.insns.get(at)) is not None:
            block.append(at)
            if _stops(insn[1]):
                return not any(_implausible(self.insns[each]) for each in block)
            at += insn[0]
        return False


def true_sites(
    data: mmap | bytes, segments: Sequence[Segment], candidates: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Return those file offsets of ``candidates`` (``0f a2`` each) that are CPUID instructions.

    With each that of the load before it, or `HOLE` and that of a hole in its reach, or its own.
    ``segments`` are the executable ones, as (file offset, address, bytes in the file).
    A malformed file has none.
    """
    try:
        image = Image(data, segments)
        flows: dict[tuple[int, int], _Flow] = {}
        holes = Holes(image, _goes_on)
        pairs = [(at, _is_site(image, at, flows, holes)) for at in candidates]
        return tuple((at, start) for at, start in pairs if start >= 0)
    except struct.error:
        return ()


def reached_sites(code: bytes, entries: Sequence[int]) -> tuple[int, ...]:
    """Return the offsets of ``0f a2`` in instructions that a run from ``entries`` reaches.

    Decodes along the flow only, since what lies between may be data.  A pair that is also
    reached as part of another instruction is left out.
    """
    sizes: dict[int, int] = {}
    found: set[int] = set()
    work = list(entries)
    while work:
        at = work.pop()
        while at not in sizes and 0 <= at < len(code):
            insn = next(_disassemble(code[at : at + 15], at), None)
            if insn is None:
                break
            _, sizes[at], mnemonic, operands = insn
            if mnemonic == "cpuid":
                found.add(at + sizes[at] - 2)
            target = _direct_target(mnemonic, operands)
            if target is not None:
                work.append(target)
            if _stops(mnemonic):
                break
            at += sizes[at]
    # An instruction may end with the pair's first byte, begin with its second, or hold both as
    # an operand: each such reading would see the patch.
    return tuple(
        sorted(
            at
            for at in found
            if not any(
                start < at + 2 and at < start + size != at + 2 for start, size in sizes.items()
            )
        )
    )


def _is_site(
    image: Image, candidate: int, flows: dict[tuple[int, int], _Flow], holes: Holes
) -> int:
    """The offset of the load before a site, a hole's, or its own; -1 if it is none."""
    offset, segment_vaddr, segment_bytes = next(
        each for each in image.segments if each[0] <= candidate < each[0] + each[2]
    )
    vaddr = segment_vaddr + candidate - offset
    start, end, after = image.fde_around(vaddr)
    entries: list[int] = []
    trusted = start <= vaddr < end
    if trusted:
        entries.append(start)
    else:
        section = image.section(vaddr)
        if section is None and image.shdrs:
            return -1
        low, high, executable = section or (
            segment_vaddr,
            segment_vaddr + segment_bytes,
            True,
        )
        if not executable:
            return -1
        start, end = max(low, end), min(high, after)
        addresses, kinds = image.symbols()
        index = bisect_right(addresses, vaddr)
        while index and addresses[index - 1] >= start:
            index -= 1
            size, kind = kinds[index]
            if kind == STT_OBJECT:
                if vaddr < addresses[index] + size:
                    return -1
                continue
            if size and vaddr >= addresses[index] + size:
                # Past the end of a function: only its end is known.
                start = max(start, addresses[index] + size)
                break
            start, trusted = addresses[index], True
            end = min(end, start + size if size else vaddr + _WINDOW_AFTER_BYTES)
            entries.append(start)
            break
    if not segment_vaddr <= start <= vaddr < end <= segment_vaddr + segment_bytes:
        return -1
    if vaddr - start > _WINDOW_BEFORE_BYTES and not trusted:
        start = vaddr - _WINDOW_BEFORE_BYTES
    if not trusted:
        end = min(end, vaddr + _WINDOW_AFTER_BYTES)
    if start <= image.entry < end:
        entries.append(image.entry)
    flow = flows.get((start, end))
    if flow is None:
        code = bytes(image.data[start - segment_vaddr + offset : end - segment_vaddr + offset])
        flow = flows[start, end] = _Flow(code, start, trusted, entries)
    if not flow.is_site(vaddr):
        return -1
    load = flow.load_before(vaddr)
    hole = -1
    if load == vaddr and flow.is_plain(vaddr):
        hole = holes.near(vaddr)
        if hole < 0 and vaddr in flow.reached:
            hole = holes.inside(vaddr, flow.gaps())
    return HOLE | candidate + hole - vaddr if hole >= 0 else load - vaddr + candidate


def _goes_on(code: bytes, start: int) -> bool:
    """Whether what ends some code goes on behind it, or is not known."""
    last, end = "", start
    for address, size, mnemonic, _ in _disassemble(code, start):
        last, end = mnemonic, address + size
    return end != start + len(code) or not _stops(last)


@cache
def _decoder() -> Cs:
    return Cs(CS_ARCH_X86, CS_MODE_64)


def _disassemble(code: bytes, base: int) -> Iterator[tuple[int, int, str, str]]:
    rows: Iterator[tuple[int, int, str, str]] = _decoder().disasm_lite(code, base)
    return rows


def _direct_target(mnemonic: str, operands: str) -> int | None:
    """Return where a direct jump or call goes."""
    if mnemonic[0] == "j" or mnemonic in ("call", "loop", "loope", "loopne", "notrack jmp"):
        try:
            return int(operands, 16)
        except ValueError:
            return None
    return None


def _stops(mnemonic: str) -> bool:
    return mnemonic.rpartition(" ")[2] in _STOPS


def _is_plain(operand: str) -> bool:
    """Whether an operand is a register that code computes with, or a number."""
    return operand in _REGISTERS or operand.lstrip("-")[:1].isdigit()


def _implausible(insn: _Insn) -> bool:
    return insn[1].rpartition(" ")[2] in _IMPLAUSIBLE or insn[1:] == (
        "add",
        "byte ptr [rax], al",
    )
