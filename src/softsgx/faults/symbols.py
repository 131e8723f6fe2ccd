"""Where a function of an enclave's file lies in the enclave.

Loaders put images where they like, so it is found by its code, which is position-independent.
"""

from __future__ import annotations

import functools
from typing import Any

from softsgx.errors import UsageError

__all__ = ["locate", "symbol_code"]


@functools.cache
def symbol_code(where: str, path: str, name: str) -> tuple[bytes, int]:
    """(the code of the section that a symbol is in, the symbol's place there).

    Raises UsageError for a file that is no ELF file, and a symbol that it has not.
    """
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        with open(path, "rb") as f:
            elf = ELFFile(f)
            for table in elf.iter_sections():
                if not isinstance(table, SymbolTableSection):
                    continue
                for symbol in table.get_symbol_by_name(name) or ():
                    index = symbol["st_shndx"]
                    if isinstance(index, int) and elf.get_section(index)["sh_flags"] & 4:
                        section = elf.get_section(index)
                        code: bytes = section.data()
                        return code, int(symbol["st_value"] - section["sh_addr"])
    except OSError as e:
        raise UsageError(f"{where}: {path}: {e.strerror}") from None
    except Exception as e:  # what pyelftools raises on files that lie is no list
        why = str(e) or type(e).__name__
        raise UsageError(f"{where}: {path}: no ELF file ({why})") from None
    raise UsageError(f"{where}: {path} has no code with the symbol {name}")


def locate(code: bytes, enclave: Any) -> int:
    """The offset in ELRANGE where a section's code lies, or -1."""
    get, pages = enclave.page_schema.get, enclave.pages
    for first, last, word in pages.runs(0, pages.n_pages):
        if get(word, "present") and get(word, "perm") & 4:
            start = first << 12
            end = (last << 12) + len(code)
            found: int = bytes(enclave.memory.view[start : min(end, enclave.size)]).find(code)
            if found >= 0:
                return int(start + found)
    return -1
