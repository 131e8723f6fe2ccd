"""Pages into the records that MRENCLAVE is the hash of: 256 bytes behind each record of 64.

:class:`Alike` looks the other way, at records that somebody wrote.

Three ways, without the GIL. :class:`OwnSha256` hashes pages as they lie, and where a processor has
no instructions for it :class:`Sha256` page by page. ``interleave.c`` where it was built, after one
read of all pages. Else ``preadv`` with a list of 1,024 pieces that is made once, which costs three
times as much.
Rejected: slices of memoryviews in a loop (half the speed of preadv), ``os.preadv`` (it looks at
1,024 Python objects each time: some 10 % slower than the bare call).
This is the one file of the room that calls compiled code.
"""

from __future__ import annotations

import os
from array import array

from softsgx import foreign
from softsgx.errors import InternalError
from softsgx.sdm.leaves import PAGE_SIZE

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CHUNKS", "CHUNK_SIZE", "PAGE_RECORDS", "RECORD", "Alike", "Followed", "OwnSha256", "Scatter",
    "Sha256",
]  # fmt: skip

RECORD, CHUNK_SIZE = 64, 256
CHUNKS = PAGE_SIZE // CHUNK_SIZE
PAGE_RECORDS = RECORD + CHUNKS * (RECORD + CHUNK_SIZE)
_NONE = (1 << 64) - 1
_NATIVE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "softsgx-interleave.so")


class Scatter:
    """Reads pages into ``records``: ``n_slots`` pages of an EADD and sixteen EEXTEND records."""

    def __init__(self, records: bytearray, n_slots: int) -> None:
        self._start = foreign.address_of(records)
        self._native: Any = None
        try:
            self._native = foreign.CDLL(_NATIVE).softsgx_interleave
        except OSError:  # not built
            self._pieces(n_slots)
            return
        self._native.argtypes = (foreign.c_void_p, foreign.c_void_p, foreign.c_size_t)
        self._native.restype = None
        self._pages = bytearray(n_slots * PAGE_SIZE)
        self._pages_at = foreign.address_of(self._pages)

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
        self._get_errno = ctypes.get_errno
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


class Followed:
    """What has come of a file's pages, for `Sha256.follow`: ``struct follow`` of ``follow.h``.

    address: where compiled code tells it. end: of what is there already, and has holes, maybe; no
    more comes. here: `OwnSha256.here`, if whoever copies is to measure.
    """

    def __init__(self, at: int, end: int | None = None, here: tuple[Any, ...] = ()) -> None:
        ready, last, holes = (at, _NONE, 0) if end is None else (end, end, 1)
        numbers = [part if isinstance(part, int) else foreign.start_of(part) for part in here]
        self._kept = here
        self._words = array("Q", (ready, last, holes, at, 0, *(numbers or [0] * 6)))
        self.address = self._words.buffer_info()[0]

    @property
    def ready(self) -> int:
        """Up to where it was told."""
        return self._words[0]

    def holes(self) -> None:
        """From now on some of what is there may be a hole of the file."""
        self._words[2] = 1

    def tell(self, ready: int) -> None:
        """All is there up to there."""
        _ours("softsgx_follow_ready")(self.address, ready)

    def end(self, at: int) -> None:
        """No more comes than up to there; 0: what is not measured yet is not wanted, either."""
        _ours("softsgx_follow_end")(self.address, at)


class Sha256:
    """SHA-256 of hashlib's own library, which compiled code can call: no GIL from page to page.

    As `hashlib.sha256`, with :meth:`pages` and :meth:`follow`. Raises LookupError where the code is
    not built, or Python's libcrypto is not to be had.
    """

    _library: tuple[Any, ...] = ()

    def __init__(self, data: bytes = b"") -> None:
        import weakref

        Sha256._library = Sha256._library or _libcrypto()
        update, new, self._free, sha256, init, *self._ends = Sha256._library
        self._new, context = new, new()
        weakref.finalize(self, self._free, context)
        if not init(context, sha256(), None):
            raise InternalError("EVP_DigestInit_ex() fails")
        self._begin(update, context, data)

    def _begin(self, update: Any, context: Any, data: bytes) -> None:
        self._update, self._context = update, context
        self._measure, self._follow = _ours("softsgx_measure"), _ours("softsgx_follow")
        self.update(data)

    def update(self, data: bytes | memoryview) -> None:
        """Hash these bytes, too."""
        if type(data) is bytes:
            good = self._update(self._context, data, len(data))
        else:
            view = memoryview(data)
            good = self._update(self._context, foreign.start_of(view), view.nbytes)
        if not good:
            raise InternalError("EVP_DigestUpdate() fails")

    def pages(
        self, view: memoryview, at: int, n_pages: int, offset: int, eadd: bytes, eextend: bytes
    ) -> None:
        """Pages of memory from byte ``at`` on, as an EADD and sixteen EEXTEND records each.

        offset: in the enclave, of the first one. eadd, eextend: the records with an offset of 0.
        """
        start = foreign.start_of(view) + at
        if not self._measure(self._update, self._context, start, n_pages, offset, eadd, eextend):
            raise InternalError("EVP_DigestUpdate() fails")

    def follow(
        self, view: memoryview, fd: int, followed: Followed, eadd: bytes, eextend: bytes
    ) -> None:
        """The same of a file's pages that come, until their end is told. view: of all of it."""
        args = foreign.start_of(view), fd, followed.address, eadd, eextend
        if not self._follow(self._update, self._context, *args):
            raise InternalError("EVP_DigestUpdate() fails")

    def digest(self) -> bytes:
        """The hash of all so far; more may follow."""
        out, copy, (copies, final) = foreign.create_string_buffer(32), self._new(), self._ends
        try:
            if not copies(copy, self._context) or not final(copy, out, None):
                raise InternalError("EVP_DigestFinal_ex() fails")
        finally:
            self._free(copy)
        return out.raw


class OwnSha256(Sha256):
    """The same by the processor's own instructions (``sha256.c``): pages are hashed as they lie.

    Raises LookupError where it has none.
    """

    def __init__(self, data: bytes = b"") -> None:
        if not _ours("softsgx_sha256_is")():
            raise LookupError("no SHA extensions")
        context = foreign.create_string_buffer(_CONTEXT_BYTES)
        _ours("softsgx_sha256_init")(context)
        self._begin(_ours("softsgx_sha256_update"), context, data)

    def here(self, eadd: bytes, eextend: bytes) -> tuple[Any, ...]:
        """What compiled code measures by: two functions, what is hashed to, and the records."""
        functions = [foreign.function_at(f) for f in (self._measure, self._update)]
        records = [foreign.create_string_buffer(record, len(record)) for record in (eadd, eextend)]
        views = [memoryview(buffer) for buffer in (self._context, *records)]
        return (*functions, views[0], _CONTEXT_BYTES, *views[1:])

    def digest(self) -> bytes:
        """The hash of all so far; more may follow."""
        out = foreign.create_string_buffer(32)
        _ours("softsgx_sha256_digest")(self._context, out)
        return out.raw


_CONTEXT_BYTES = 104  # struct sha256


def _ours(name: str) -> Any:
    """A function of ``softsgx-interleave.so``. Raises LookupError."""
    if _NATIVE not in _found:
        _found[_NATIVE] = _natives()
    return _found[_NATIVE][name]


_found: dict[str, dict[str, Any]] = {}


def _natives() -> dict[str, Any]:
    """Functions by their names; none where it is not built."""
    pointer, size, number = foreign.c_void_p, foreign.c_size_t, foreign.c_int
    word = foreign.c_uint64
    try:
        library = foreign.CDLL(_NATIVE)
        return {
            how[0]: _function(library, *how)
            for how in (
                ("softsgx_measure", number, pointer, pointer, pointer, size, word, pointer,
                 pointer),
                ("softsgx_follow", number, pointer, pointer, pointer, number, pointer, pointer,
                 pointer),
                ("softsgx_follow_ready", None, pointer, word),
                ("softsgx_follow_end", None, pointer, word),
                ("softsgx_sha256_is", number),
                ("softsgx_sha256_init", None, pointer),
                ("softsgx_sha256_update", number, pointer, pointer, size),
                ("softsgx_sha256_digest", None, pointer, pointer),
            )
        }  # fmt: skip
    except (OSError, AttributeError):
        return {}


def _libcrypto() -> tuple[Any, ...]:
    """Its functions that `Sha256` calls. Raises LookupError."""
    from importlib.util import find_spec

    pointer, size, number = foreign.c_void_p, foreign.c_size_t, foreign.c_int
    spec = find_spec("_hashlib")
    try:
        # What a module is linked with is found by it.
        library = foreign.CDLL(None if spec is None else spec.origin)
        return tuple(
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
        )
    except (OSError, AttributeError) as error:
        raise LookupError(str(error)) from None


def _function(library: Any, name: str, result: Any, *takes: Any) -> Any:
    function = library[name]
    function.restype, function.argtypes = result, takes
    return function


class Alike:
    """Counts pages of a stream of records that are written alike, where that can be done quickly.

    ``stream``: the records, whose memory has to stay where it is; no reference to it is kept.
    """

    def __init__(self, stream: memoryview) -> None:
        self._size = len(stream)
        self._native: Any = None
        if not self._size:
            return
        try:
            self._native = foreign.CDLL(_NATIVE).softsgx_alike
        except (OSError, AttributeError):  # not built, or an older one
            return
        size, word = foreign.c_size_t, foreign.c_uint64
        self._native.argtypes = (foreign.c_void_p, size, size, word)
        self._native.restype = size
        self._start = foreign.start_of(stream)

    def count(self, at: int, max_pages: int, tag: bytes) -> int:
        """Pages from byte ``at`` on: EADD records, each with 16 chunks as records of ``tag``.

        ``tag``: 8 bytes; b"": EADD records alone. 0 means that record by record has to do.
        """
        if self._native is None:
            return 0
        number = int.from_bytes(tag, "little")
        return int(self._native(self._start + at, self._size - at, max_pages, number))
