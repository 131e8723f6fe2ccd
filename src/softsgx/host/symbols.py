"""What lies at an address of an enclave: symbol, source line, caller, from an ELF file's own words.

An enclave's ELF file is found by content: the code around an address is looked for in files that
may be it, and where it stands says how far the file was moved. So it does not matter how a
loader read it, or whether it lay in the file of another (Intel's, Gramine's and others' do). A
file without symbols is completed by the one of its build id, where debuggers look for it.

What pyelftools raises on files that lie, or have what it does not know, is no list: errors of its
own, of construct, assertions, what comes of tables that are not there. Such a file says nothing.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from elftools.elf.elffile import ELFFile

__all__ = ["Symbols", "beside", "find"]

Read = Callable[[int, int], bytes]
"""(address, length) → bytes, fewer where there are none."""

_DEBUG = "/usr/lib/debug/.build-id"
# DWARF's numbers of registers: System V ABI, AMD64 supplement, "DWARF Register Number Mapping".
_DWARF = (
    "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip",
)  # fmt: skip
_RETURN, _U64 = 16, (1 << 64) - 1
_EXECUTABLE = 1
_MOST_BYTES = 2 << 30  # of a file that a process has, which may be sparse: it is read as a whole
_AROUND = 24  # bytes of code before and after an address that have to be the same


class Symbols:
    """An ELF file that lies ``bias`` bytes above its own addresses. ``path``: of the file.

    dynamic: the file's own address of its section .dynamic, 0 if it has none.
    """

    def __init__(self, path: str, bias: int) -> None:
        self.path, self.bias = path, bias
        self.dynamic, self._functions = 0, list[tuple[int, int, str]]()
        with suppress(Exception), open(path, "rb") as f:
            section = ELFFile(f).get_section_by_name(".dynamic")
            self.dynamic = 0 if section is None else int(section["sh_addr"])
            self._functions = sorted(_functions(ELFFile(f)))
            if not self._functions:
                self.path = _debug_file(ELFFile(f)) or path
        if self.path != path:
            with suppress(Exception), open(self.path, "rb") as f:
                self._functions = sorted(_functions(ELFFile(f)))

    def name(self, addr: int) -> str:
        """``function+0x12`` of an address, "" where no function is."""
        at = addr - self.bias
        for start, size, name in reversed(self._functions):
            if start <= at < start + max(size, 1) or (not size and start <= at):
                return f"{name}+{at - start:#x}"
        return ""

    def line(self, addr: int) -> str:
        """``file.c:12`` of an address, "" where the file does not say."""
        at = addr - self.bias
        with suppress(Exception), open(self.path, "rb") as f:
            elf = ELFFile(f)
            return _line(elf.get_dwarf_info(), at) if elf.has_dwarf_info() else ""
        return ""

    def caller(self, registers: dict[str, int], at: int, read: Read) -> dict[str, int] | None:
        """The registers in the caller of code at ``at``, by the file's CFI; None if it has none.

        registers: by name, ``rip`` too. read: of the memory that the stack is in.
        """
        rules: dict[str, int] = {}
        with suppress(Exception), open(self.path, "rb") as f:
            row = _row(ELFFile(f), at - self.bias)
            if row is None or row["cfa"].reg is None:
                return None
            cfa = registers[_DWARF[row["cfa"].reg]] + int(row["cfa"].offset)
            for number, name in enumerate(_DWARF):
                rule = row.get(number)
                if rule is not None and rule.type == "OFFSET":
                    rules[name] = int(rule.arg)
        if _DWARF[_RETURN] not in rules:
            return None
        found = dict(registers, rsp=cfa & _U64)
        for name, offset in rules.items():
            raw = read(cfa + offset & _U64, 8)
            if len(raw) < 8:
                return None
            found[name] = int.from_bytes(raw, "little")
        return found


def _functions(elf: Any) -> Iterator[tuple[int, int, str]]:
    table = elf.get_section_by_name(".symtab")
    for symbol in table.iter_symbols() if table is not None else ():
        is_code = symbol["st_info"]["type"] in ("STT_FUNC", "STT_NOTYPE") and symbol.name
        if is_code and symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_shndx"] != "SHN_ABS":
            yield symbol["st_value"], symbol["st_size"], symbol.name


def _debug_file(elf: Any) -> str:
    """The file with the symbols of a file that was stripped of them, or ""."""
    section = elf.get_section_by_name(".note.gnu.build-id")
    for note in section.iter_notes() if section is not None else ():
        text = str(note["n_desc"])
        path = f"{_DEBUG}/{text[:2]}/{text[2:]}.debug"
        if os.path.exists(path):
            return path
    return ""


def _line(dwarf: Any, at: int) -> str:
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        before = None
        for entry in program.get_entries() if program is not None else ():
            state = entry.state
            if state is None:
                continue
            if before is not None and before.address <= at < state.address:
                return f"{_file_name(program, before.file)}:{before.line}"
            before = None if state.end_sequence else state
    return ""


def _file_name(program: Any, number: int) -> str:
    # DWARF, "The Line Number Program Header": numbers begin at 0 as of version 5.
    first = 0 if program.header["version"] >= 5 else 1
    name: bytes = program.header["file_entry"][number - first].name
    return os.path.basename(name.decode("utf-8", "replace"))


def _row(elf: Any, at: int) -> dict[Any, Any] | None:
    if not elf.has_dwarf_info():
        return None
    dwarf = elf.get_dwarf_info()
    entries = dwarf.CFI_entries() if dwarf.has_CFI() else []
    entries += dwarf.EH_CFI_entries() if dwarf.has_EH_CFI() else []
    for entry in entries:
        start = entry.header.get("initial_location") if hasattr(entry, "header") else None
        if start is None or not start <= at < start + entry["address_range"]:
            continue
        rows = [row for row in entry.get_decoded().table if row["pc"] <= at]
        return rows[-1] if rows else None
    return None


# -- which file ------------------------------------------------------------------------


def beside(paths: Iterable[str]) -> Iterator[str]:
    """The paths, and the files beside each that differ in what stands behind the name's dot."""
    seen = set()
    for path in paths:
        stem = os.path.splitext(path)[0]
        for found in (path, *sorted(glob.glob(glob.escape(stem) + ".*"))):
            if found not in seen and os.path.isfile(found):
                seen.add(found)
                yield found


def find(paths: Iterable[str], at: int, code: bytes, middle: int) -> Symbols | None:
    """The first file that has the code around an address, and where it lies.

    code: bytes of the enclave, ``code[middle]`` being at the address ``at``. Files that cannot be
    read, are no ELF files or very large, or have the code in more than one place are left out.
    """
    start = max(0, middle - _AROUND)
    wanted = code[start : middle + _AROUND]
    for path in paths:
        try:
            if os.path.getsize(path) > _MOST_BYTES:
                continue
            with open(path, "rb") as f:
                places = list(_places(ELFFile(f), wanted))
            if len(places) == 1:
                return Symbols(path, at - (middle - start) - places[0])
        except Exception:
            continue
    return None


def _places(elf: Any, wanted: bytes) -> Iterator[int]:
    """The addresses of some code in a file's executable segments."""
    for segment in elf.iter_segments():
        if segment["p_type"] != "PT_LOAD" or not segment["p_flags"] & _EXECUTABLE:
            continue
        data = segment.data()
        found = data.find(wanted)
        while found >= 0:
            yield segment["p_vaddr"] + found
            found = data.find(wanted, found + 1)
