"""AppArmor's compiled form: the packed profiles of a policy blob, and their DFAs.

`apparmor_parser -S` writes what it would load into the kernel: little-endian tagged
values, in which each profile carries a DFA over path names. Walking that DFA is the
kernel's whole file decision, so no glob is interpreted here a second time.

Sources: Linux 6.1 security/apparmor/policy_unpack.c (the tags), match.c (the tables and
the walk), include/match.h (the table numbers).
"""

from __future__ import annotations

from array import array

from softsgx.errors import UsageError

__all__ = ["Dfa", "Item", "unpack"]

# enum aa_code, include/policy_unpack.h
_U8, _U16, _U32, _U64, _NAME, _STRING, _BLOB, _STRUCT, _STRUCTEND, _LIST, _LISTEND = range(11)
_ARRAY, _ARRAYEND = 11, 12
_WIDTH = {_U8: 1, _U16: 2, _U32: 4, _U64: 8}
_ENDS = {_STRUCT: _STRUCTEND, _LIST: _LISTEND, _ARRAY: _ARRAYEND}


class Item:
    """One tagged value: `name` (or ""), and `value`: int, str, bytes (a blob) or Items."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: int | str | bytes | list[Item]) -> None:
        self.name = name
        self.value = value


def unpack(data: bytes, where: str) -> list[Item]:
    """Return the tagged values of a policy blob; structs, lists and arrays are nested.

    Raises UsageError when `data` is not such a blob; `where` names it.
    """
    try:
        items, offset = _unpack_until(data, 0, None)
    except (IndexError, KeyError, ValueError) as error:
        raise UsageError(f"{where}: not a compiled AppArmor policy") from error
    if offset != len(data) or not items or items[0].name != "version":
        raise UsageError(f"{where}: not a compiled AppArmor policy")
    return items


def _unpack_until(data: bytes, offset: int, end: int | None) -> tuple[list[Item], int]:
    items: list[Item] = []
    name = ""
    while offset < len(data):
        code = data[offset]
        offset += 1
        if code == end:
            return items, offset
        value: int | str | bytes | list[Item]
        if code in _WIDTH:
            value = int.from_bytes(data[offset : offset + _WIDTH[code]], "little")
            offset += _WIDTH[code]
        elif code in {_NAME, _STRING}:
            size = int.from_bytes(data[offset : offset + 2], "little")
            raw = data[offset + 2 : offset + 2 + size]
            if len(raw) != size or raw[-1] != 0:
                raise ValueError(offset)
            offset += 2 + size
            text = raw[:-1].decode("utf-8", "surrogateescape")
            if code == _NAME:
                name = text
                continue
            value = text
        elif code == _BLOB:
            size = int.from_bytes(data[offset : offset + 4], "little")
            value = data[offset + 4 : offset + 4 + size]
            if len(value) != size:
                raise ValueError(offset)
            offset += 4 + size
        else:
            offset += 2 if code == _ARRAY else 0  # the array's length
            value, offset = _unpack_until(data, offset, _ENDS[code])
        items.append(Item(name, value))
        name = ""
    if end is not None:
        raise ValueError(offset)
    return items, offset


_DFA_MAGIC = b"\x1b\x5e\x78\x3d"
_FLAG_DIFF_ENCODE = 0x80000000
_BASE_INDEX = 0xFFFFFF
# Table numbers as stored: YYTD_ID_* + 1
_ACCEPT, _BASE, _CHECK, _DEFAULT, _EQUIV, _ACCEPT2, _NEXT = 1, 2, 3, 4, 5, 7, 8
_TYPE_OF_WIDTH = {1: "B", 2: "H", 4: "I"}


class Dfa:
    """A packed DFA. `accept` and `accept2` are the two accept words of each state."""

    START = 1
    NO_MATCH = 0

    __slots__ = ("_base", "_check", "_default", "_equiv", "_next", "accept", "accept2")

    def __init__(self, blob: bytes, where: str) -> None:
        # The parser aligns the DFA to 8 bytes from the start of its stream.
        start = blob.find(_DFA_MAGIC, 0, 12)
        if start < 0:
            raise UsageError(f"{where}: a compiled AppArmor profile holds no DFA of this format")
        tables: dict[int, array[int]] = {}
        at = start + int.from_bytes(blob[start + 4 : start + 8], "big")
        while at + 12 <= len(blob):
            number = int.from_bytes(blob[at : at + 2], "big")
            width = int.from_bytes(blob[at + 2 : at + 4], "big")
            count = int.from_bytes(blob[at + 8 : at + 12], "big")
            if width not in _TYPE_OF_WIDTH or at + 12 + count * width > len(blob):
                raise UsageError(f"{where}: the DFA of a compiled AppArmor profile is damaged")
            table = array(_TYPE_OF_WIDTH[width], blob[at + 12 : at + 12 + count * width])
            table.byteswap()
            tables[number] = table
            at += (12 + count * width + 7) & ~7
        if missing := {_ACCEPT, _ACCEPT2, _BASE, _CHECK, _DEFAULT, _NEXT} - tables.keys():
            raise UsageError(f"{where}: the DFA of a compiled profile lacks tables {missing}")
        self.accept, self.accept2 = tables[_ACCEPT], tables[_ACCEPT2]
        # Lists: an array would make an int object at each look.
        self._base, self._default = tables[_BASE].tolist(), tables[_DEFAULT].tolist()
        self._next, self._check = tables[_NEXT].tolist(), tables[_CHECK].tolist()
        self._equiv: bytes = bytes(tables.get(_EQUIV, range(256)))

    def step(self, state: int, byte: int) -> int:
        """Return the state after one byte of input (match.c, match_char)."""
        return self.walk(state, bytes((byte,)))

    def walk(self, state: int, text: bytes) -> int:
        """Return the state after `text`, beginning in `state` (match.c, aa_dfa_match)."""
        base, check, default, following = self._base, self._check, self._default, self._next
        for character in text.translate(self._equiv):
            while True:
                entry = base[state]
                at = (entry & _BASE_INDEX) + character
                if check[at] == state:
                    state = following[at]
                    break
                state = default[state]
                if not entry & _FLAG_DIFF_ENCODE:
                    break
        return state
