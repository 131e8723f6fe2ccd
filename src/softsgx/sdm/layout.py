"""A binary layout is one field table with a declared size.

The table is the only place where an offset is written down. It has to cover every byte, so a hole
is a mistake in the table, not a place where something hides: reserved bytes are fields with a name,
and :meth:`Layout.reserved_zero` is the check that the SDM and the kernel make of them.

Rejected: ``ctypes.Structure`` (no notion of reserved, and ctypes stays in one file a room),
dataclasses (16 ms of import), bare ``struct`` formats (nobody can check an offset in them).
"""

from __future__ import annotations

import struct

from softsgx.errors import InternalError

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Field", "Layout", "Record", "field", "reserved"]

_INTS = {"u8": ("B", 1), "u16": ("H", 2), "u32": ("I", 4), "u64": ("Q", 8)}


class Field:
    """One row of a layout: ``size`` bytes at ``offset``; an unsigned int if ``is_int``."""

    __slots__ = ("code", "is_int", "name", "offset", "reserved", "size")

    def __init__(self, name: str, offset: int, kind: str | int, reserved: bool) -> None:
        self.name = name
        self.offset = offset
        self.reserved = reserved
        self.is_int = isinstance(kind, str)
        if isinstance(kind, str):
            self.code, self.size = _INTS[kind]
        else:
            self.code, self.size = f"{kind}s", kind

    @property
    def end(self) -> int:
        """The offset of the first byte after the field."""
        return self.offset + self.size


def field(name: str, offset: int, kind: str | int) -> Field:
    """A row: ``kind`` is "u8", "u16", "u32" or "u64" (little-endian), or a length in bytes."""
    return Field(name, offset, kind, reserved=False)


def reserved(name: str, offset: int, size: int) -> Field:
    """A row of ``size`` bytes that have to be zero."""
    return Field(name, offset, size, reserved=True)


class Record:
    """The values of one structure, by field name: ints for integers, bytes for the rest.

    Values may be assigned; :meth:`Layout.pack` writes them back
    (``LAYOUT.pack(**vars(record))``, or :meth:`Layout.pack_record`).
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    # For the type checker: the fields live in __dict__, so this is reached only by a wrong name.
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no field {name!r}; there are {', '.join(self.__dict__)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dict__:
            raise AttributeError(f"no field {name!r}; there are {', '.join(self.__dict__)}")
        self.__dict__[name] = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = (f"{k}={v:#x}" if isinstance(v, int) else f"{k}=…" for k, v in vars(self).items())
        return f"Record({', '.join(shown)})"


class Layout:
    """A structure of ``size`` bytes, whose fields are consecutive and leave no hole."""

    __slots__ = ("_all_ints", "_by_name", "_zeros", "fields", "name", "size", "struct")

    def __init__(self, name: str, size: int, *fields: Field) -> None:
        position = 0
        for row in fields:
            if row.offset != position:
                raise InternalError(f"{name}.{row.name} is at {row.offset}, not at {position}")
            position = row.end
        if position != size:
            raise InternalError(f"{name} declares {size} bytes and has fields for {position}")
        self.name = name
        self.size = size
        self.fields = fields
        self._by_name = {row.name: row for row in fields}
        self._zeros = tuple((r.offset, r.end, bytes(r.size)) for r in fields if r.reserved)
        if len(self._by_name) != len(fields):
            raise InternalError(f"{name} has two fields of the same name")
        self.struct = struct.Struct("<" + "".join(row.code for row in fields))
        self._all_ints = all(row.is_int for row in fields)

    def __repr__(self) -> str:
        return f"Layout({self.name}, {self.size} bytes)"

    def __getitem__(self, name: str) -> Field:
        return self._by_name[name]

    def offset(self, name: str) -> int:
        """The offset in bytes of a field."""
        return self._by_name[name].offset

    def unpack(self, buf: bytes | bytearray | memoryview, offset: int = 0) -> Record:
        """The record at ``offset`` of ``buf``; a buffer that is too short raises ``struct.error``.

        Reserved fields are in the record too, under their names.
        """
        return Record(dict(zip(self._by_name, self.struct.unpack_from(buf, offset), strict=True)))

    def pack(self, **values: int | bytes) -> bytes:
        """The bytes of a structure; fields that are not given are zero.

        A field that does not exist, an int that does not fit and a blob of the wrong length are
        :class:`~softsgx.errors.InternalError`.
        """
        row_values: list[int | bytes] = []
        unknown = values.keys() - self._by_name.keys()
        if unknown:
            raise InternalError(f"{self.name} has no field {', '.join(sorted(unknown))}")
        for row in self.fields:
            value = values.get(row.name, 0 if row.is_int else bytes(row.size))
            fits = (
                isinstance(value, int) and 0 <= value < 1 << 8 * row.size
                if row.is_int
                else not isinstance(value, int) and len(value) == row.size
            )
            if not fits:
                raise InternalError(f"{self.name}.{row.name} cannot hold {value!r}")
            row_values.append(value)
        return self.struct.pack(*row_values)

    def pack_record(self, record: Record) -> bytes:
        """The bytes of a record that :meth:`unpack` gave, changed or not."""
        values = vars(record)
        if self._all_ints and len(values) == len(self.fields):
            try:
                return self.struct.pack(*values.values())
            except struct.error:
                pass  # let pack() name the field
        return self.pack(**values)

    def reserved_zero(self, buf: bytes | bytearray | memoryview, offset: int = 0) -> bool:
        """Whether every reserved byte of the structure at ``offset`` is zero."""
        return all(buf[offset + a : offset + b] == zeros for a, b, zeros in self._zeros)
