"""What a run needs of ctypes: a third of what importing ctypes takes.

By the library below ctypes, whose names are CPython's own and the same from 3.11 on; where one of
them is missing ctypes itself is taken, which has them all.
"""

from __future__ import annotations

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_light = not TYPE_CHECKING
if _light:
    try:
        from _ctypes import (
            FUNCFLAG_CDECL,
            FUNCFLAG_PYTHONAPI,
            FUNCFLAG_USE_ERRNO,
            CFuncPtr,
            _SimpleCData,
            addressof,
            byref,
            dlopen,
            get_errno,
        )  # fmt: skip
    except ImportError:
        _light = False
if TYPE_CHECKING or not _light:
    from ctypes import (
        CDLL,
        CFUNCTYPE,
        PyDLL,
        addressof,
        byref,
        c_char,
        c_char_p,
        c_int,
        c_long,
        c_size_t,
        c_ssize_t,
        c_uint,
        c_uint32,
        c_uint64,
        c_ulong,
        c_void_p,
        create_string_buffer,
        get_errno,
        py_object,
    )  # fmt: skip
else:
    # By their letters (the module struct has the same). The ABI is x86-64's.
    c_char, c_char_p, c_void_p, c_int, c_uint, c_long, c_ulong = [
        type(letter, (_SimpleCData,), {"_type_": letter}) for letter in "czPiIlL"
    ]
    py_object = type("py_object", (_SimpleCData,), {"_type_": "O"})
    c_uint32, c_uint64 = c_uint, c_ulong
    c_size_t, c_ssize_t = c_ulong, c_long

    class _Locked(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI | FUNCFLAG_USE_ERRNO
        _restype_ = c_int

    class _Unlocked(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL
        _restype_ = c_int

    class PyDLL:
        """A library whose functions run with the GIL, and whose errno is kept."""

        _function = _Locked

        def __init__(self, path, **_options):
            self._handle = dlopen(path, 0)

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            function = self._function((name, self))
            setattr(self, name, function)
            return function

        __getitem__ = __getattr__

    class CDLL(PyDLL):
        """The same without the GIL."""

        _function = _Unlocked

    def CFUNCTYPE(result, *arguments):
        """The type of a function at an address; it runs without the GIL."""
        kind = {"_flags_": FUNCFLAG_CDECL, "_restype_": result, "_argtypes_": arguments}
        return type("_Function", (CFuncPtr,), kind)

    def create_string_buffer(first, size=None):
        """So many bytes, or some bytes in so much room."""
        buffer = (c_char * (first if size is None else size))()
        if size is not None:
            buffer.value = first
        return buffer


def string_in(library: CDLL, name: str) -> bytes:
    """The string, up to its 0, that a library has by some name."""
    return c_char_p(addressof(c_char.in_dll(library, name))).value or b""


def address_of(buffer: Any) -> int:
    """Where something that can be written to as bytes lies in our memory, as long as it does."""
    return addressof(c_char.from_buffer(buffer))


def function_at(function: Any) -> int:
    """The address of a library's function."""
    return c_void_p.from_buffer(function).value or 0


def start_of(view: memoryview) -> int:
    """Where memory is that stays there; it may be read-only, which `address_of` refuses."""
    get_buffer, release = _buffers()
    buffer = (c_void_p * 16)()  # Py_buffer, whose first member is the address
    get_buffer(view, buffer, 0)
    start = buffer[0] or 0
    release(buffer)
    return start


_found: list[Any] = []


def _buffers() -> list[Any]:
    """How CPython gives a buffer, and takes it back."""
    if not _found:
        python = PyDLL(None)
        get_buffer, release = python.PyObject_GetBuffer, python.PyBuffer_Release
        get_buffer.argtypes = (py_object, c_void_p, c_int)
        release.argtypes, release.restype = (c_void_p,), None
        _found.extend((get_buffer, release))
    return _found


__all__ = [
    "CDLL", "CFUNCTYPE", "PyDLL", "address_of", "addressof", "byref", "c_char",
    "c_char_p", "c_int", "c_long", "c_size_t", "c_ssize_t", "c_uint", "c_uint32", "c_uint64",
    "c_ulong", "c_void_p", "create_string_buffer", "function_at", "get_errno", "py_object",
    "start_of", "string_in",
]  # fmt: skip
