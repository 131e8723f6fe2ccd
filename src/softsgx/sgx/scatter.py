"""Pages into the records that MRENCLAVE is the hash of: 256 bytes behind each record of 64.

:class:`Alike` looks the other way, at records that somebody wrote.

Two ways, without the GIL. ``interleave.c``, where it was built, after one read of all pages; what
is mapped needs none, and :class:`Sha256` hashes it as well. Else ``preadv`` with a list of 1,024
pieces that is made once, which costs three times as much.
Rejected: slices of memoryviews in a loop (half the speed of preadv), ``os.preadv`` (it looks at
1,024 Python objects each time: some 10 % slower than the bare call).
This is the one file of the room that uses ctypes.
"""

from __future__ import annotations

import os
from array import array

from softsgx.errors import InternalError
from softsgx.sdm.leaves import PAGE_SIZE

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["CHUNKS", "CHUNK_SIZE", "PAGE_RECORDS", "RECORD", "Alike", "Scatter", "Sha256"]

RECORD, CHUNK_SIZE = 64, 256
CHUNKS = PAGE_SIZE // CHUNK_SIZE
PAGE_RECORDS = RECORD + CHUNKS * (RECORD + CHUNK_SIZE)
_NATIVE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "softsgx-interleave.so")


def _address(view: memoryview) -> int:
    """Where memory is that stays there; it may be read-only, which ctypes' own way refuses."""
    import ctypes

    get_buffer = ctypes.pythonapi.PyObject_GetBuffer
    get_buffer.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
    release = ctypes.pythonapi.PyBuffer_Release
    release.argtypes = [ctypes.c_void_p]
    release.restype = None
    buffer = (ctypes.c_void_p * 16)()  # Py_buffer, whose first member is the address
    get_buffer(view, buffer, 0)
    start = buffer[0] or 0
    release(buffer)
    return start


class Scatter:
    """Reads pages into ``records``: ``n_slots`` pages of an EADD and sixteen EEXTEND records."""

    def __init__(self, records: bytearray, n_slots: int) -> None:
        import ctypes

        self._start = ctypes.addressof(ctypes.c_char.from_buffer(records))
        self._get_errno = ctypes.get_errno
        self._native: Any = None
        try:
            self._native = ctypes.CDLL(_NATIVE).softsgx_interleave
        except OSError:  # not built
            self._pieces(n_slots)
            return
        self._native.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self._native.restype = None
        self._pages = bytearray(n_slots * PAGE_SIZE)
        self._pages_at = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))

    def _pieces(self, n_slots: int) -> None:
        """Make the struct iovec (address and length) of every chunk of every slot."""
        import ctypes

        self._iovecs = array("Q", [0, CHUNK_SIZE]) * (n_slots * CHUNKS)
        first = 2 * RECORD
        self._iovecs[::2] = array(
            "Q",
            (
                self._start + slot * PAGE_RECORDS + first + (RECORD + CHUNK_SIZE) * chunk
                for slot in range(n_slots)
                for chunk in range(CHUNKS)
            ),
        )
        self._iovecs_at = self._iovecs.buffer_info()[0]
        self._preadv = ctypes.CDLL(None, use_errno=True).preadv64
        self._preadv.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
        self._preadv.restype = ctypes.c_ssize_t

    def read(self, fd: int, file_offset: int, slot: int, n_pages: int) -> int:
        """Read pages of a file into the slots from ``slot`` on: the bytes that there were.

        Raises OSError.
        """
        if self._native is not None:
            done = os.preadv(fd, [memoryview(self._pages)[: n_pages * PAGE_SIZE]], file_offset)
            self._native(self._start + slot * PAGE_RECORDS, self._pages_at, n_pages)
            return done
        at = self._iovecs_at + slot * CHUNKS * 16
        done = int(self._preadv(fd, at, n_pages * CHUNKS, file_offset))
        if done < 0:
            number = self._get_errno()
            raise OSError(number, os.strerror(number))
        return done


class Sha256:
    """SHA-256 of hashlib's own library, which compiled code can call: no GIL from page to page.

    As `hashlib.sha256`, with :meth:`pages`. Raises LookupError where the code is not built, or
    Python's libcrypto is not to be had.
    """

    _functions: Any = None

    def __init__(self, data: bytes = b"") -> None:
        import weakref

        found = Sha256._functions = Sha256._functions or _libcrypto()
        self._update, self._measure, new, free, sha256, init, self._copy, self._final = found
        self._new, self._free = new, free
        self._context = new()
        weakref.finalize(self, free, self._context)
        if not init(self._context, sha256(), None):
            raise InternalError("EVP_DigestInit_ex() fails")
        self.update(data)

    def update(self, data: bytes | memoryview) -> None:
        """Hash these bytes, too."""
        if type(data) is bytes:
            good = self._update(self._context, data, len(data))
        else:
            view = memoryview(data)
            good = self._update(self._context, _address(view), view.nbytes)
        if not good:
            raise InternalError("EVP_DigestUpdate() fails")

    def pages(
        self, view: memoryview, at: int, n_pages: int, offset: int, eadd: bytes, eextend: bytes
    ) -> None:
        """Pages of memory from byte ``at`` on, as an EADD and sixteen EEXTEND records each.

        offset: in the enclave, of the first one. eadd, eextend: the records with an offset of 0.
        """
        start = _address(view) + at
        if not self._measure(self._update, self._context, start, n_pages, offset, eadd, eextend):
            raise InternalError("EVP_DigestUpdate() fails")

    def digest(self) -> bytes:
        """The hash of all so far; more may follow."""
        import ctypes

        out, copy = ctypes.create_string_buffer(32), self._new()
        try:
            if not self._copy(copy, self._context) or not self._final(copy, out, None):
                raise InternalError("EVP_DigestFinal_ex() fails")
        finally:
            self._free(copy)
        return out.raw


def _libcrypto() -> tuple[Any, ...]:
    """Its functions that `Sha256` calls, ours behind the first. Raises LookupError."""
    import ctypes
    from importlib.util import find_spec

    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    spec = find_spec("_hashlib")
    try:
        ours = ctypes.CDLL(_NATIVE).softsgx_measure
        # What a module is linked with is found by it.
        library = ctypes.CDLL(None if spec is None else spec.origin)
        found = [
            _function(library, *how)
            for how in (
                ("EVP_DigestUpdate", number, pointer, pointer, size),
                ("EVP_MD_CTX_new", pointer),
                ("EVP_MD_CTX_free", None, pointer),
                ("EVP_sha256", pointer),
                ("EVP_DigestInit_ex", number, pointer, pointer, pointer),
                ("EVP_MD_CTX_copy_ex", number, pointer, pointer),
                ("EVP_DigestFinal_ex", number, pointer, pointer, pointer),
            )
        ]
    except (OSError, AttributeError) as error:
        raise LookupError(str(error)) from None
    ours.argtypes = [pointer, pointer, pointer, size, ctypes.c_uint64, pointer, pointer]
    ours.restype = number
    return (found[0], ours, *found[1:])


def _function(library: Any, name: str, result: Any, *takes: Any) -> Any:
    function = library[name]
    function.restype, function.argtypes = result, takes
    return function


class Alike:
    """Counts pages of a stream of records that are written alike, where that can be done quickly.

    ``stream``: the records, whose memory has to stay where it is; no reference to it is kept.
    """

    def __init__(self, stream: memoryview) -> None:
        import ctypes

        self._size = len(stream)
        self._native: Any = None
        if not self._size:
            return
        try:
            self._native = ctypes.CDLL(_NATIVE).softsgx_alike
        except (OSError, AttributeError):  # not built, or an older one
            return
        size, word = ctypes.c_size_t, ctypes.c_uint64
        self._native.argtypes = [ctypes.c_void_p, size, size, word]
        self._native.restype = size
        self._start = _address(stream)

    def count(self, at: int, max_pages: int, tag: bytes) -> int:
        """Pages from byte ``at`` on: EADD records, each with 16 chunks as records of ``tag``.

        ``tag``: 8 bytes; b"": EADD records alone. 0 means that record by record has to do.
        """
        if self._native is None:
            return 0
        number = int.from_bytes(tag, "little")
        return int(self._native(self._start + at, self._size - at, max_pages, number))
