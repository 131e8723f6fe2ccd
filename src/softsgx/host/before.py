"""Is what stands before an ENCLU one instruction that loads its leaf?

x86 code cannot be decoded backwards: ``b8 04 00 00 00`` may be ``mov $4, %eax`` or the end of a
longer instruction. Decoding that starts at different bytes before falls into step within a few
instructions; if all of them find the instruction there, it is one. What is not sure is none.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["leaf_before"]

_LOADS = (bytes.fromhex("48c7c0"), bytes.fromhex("b8"))  # mov $…, %rax and %eax
_IN_STEP_BYTES = 24
_MANY = 8


def leaf_before(code: bytes, leaf: int) -> int:
    """How many bytes before the end of ``code`` (some 96 bytes before an ENCLU) it begins.

    0 if there is none, or none for sure.
    """
    for opcode in _LOADS:
        load = opcode + leaf.to_bytes(4, "little")
        if code.endswith(load) and _is_instruction(code[: -len(load)], load):
            return len(load)
    return 0


def _is_instruction(before: bytes, load: bytes) -> bool:
    at = len(before)
    found = 0
    for start in range(at - _IN_STEP_BYTES + 1):
        ends = _ends(before[start:] + load)
        last = max(ends, default=0)
        if start + last < at:
            continue  # no code: decoding ended before
        if at - start not in ends:
            return False
        found += 1
    return found >= _MANY


def _ends(code: bytes) -> set[int]:
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs

    decoder = Cs(CS_ARCH_X86, CS_MODE_64)
    rows: Iterator[tuple[int, int, str, str]] = decoder.disasm_lite(code, 0)
    return {address + size for address, size, *_ in rows}
