"""Pages into the records that MRENCLAVE is the hash of: 256 bytes behind each record of 64.

:class:`Alike` looks the other way, at records that somebody wrote.

Two ways, without the GIL. ``interleave.c``, where it was built, after one read of all pages. Else
``preadv`` with a list of 1,024 pieces that is made once, which costs three times as much.
Rejected: slices of memoryviews in a loop (half the speed of preadv), ``os.preadv`` (it looks at
1,024 Python objects each time: some 10 % slower than the bare call).
This is the one file of the room that uses ctypes.
"""

from __future__ import annotations

import os
from array import array

from softsgx.sdm.leaves import PAGE_SIZE

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["CHUNKS", "CHUNK_SIZE", "PAGE_RECORDS", "RECORD", "Alike", "Scatter"]

RECORD, CHUNK_SIZE = 64, 256
CHUNKS = PAGE_SIZE // CHUNK_SIZE
PAGE_RECORDS = RECORD + CHUNKS * (RECORD + CHUNK_SIZE)
_NATIVE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "softsgx-interleave.so")


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
        # The address of memory that may be read-only, which ctypes' own way refuses.
        get_buffer = ctypes.pythonapi.PyObject_GetBuffer
        get_buffer.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
        release = ctypes.pythonapi.PyBuffer_Release
        release.argtypes = [ctypes.c_void_p]
        release.restype = None
        view = (ctypes.c_void_p * 16)()  # Py_buffer, whose first member is the address
        get_buffer(stream, view, 0)
        self._start = view[0] or 0
        release(view)

    def count(self, at: int, max_pages: int, tag: bytes) -> int:
        """Pages from byte ``at`` on: EADD records, each with 16 chunks as records of ``tag``.

        ``tag``: 8 bytes; b"": EADD records alone. 0 means that record by record has to do.
        """
        if self._native is None:
            return 0
        number = int.from_bytes(tag, "little")
        return int(self._native(self._start + at, self._size - at, max_pages, number))
