"""The C libraries behind the SELinux engine: the one file of this room that uses ctypes.

libsepol (3.4 and later) decides, compiles CIL and writes policies out; libselinux
matches paths with file contexts. Here are their calls with Python's values in and out;
what they mean stands in `sepol` and `labels`.

libsepol keeps **one** policy database and one SID table in static variables, without a
lock, and ctypes drops the GIL. So every policy that decides has a copy of the library of
its own (a second copy is the same file, put into a memfd and loaded under another name),
and each copy has a lock.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable, Mapping

from softsgx.errors import InternalError, UnsupportedError, UsageError

__all__ = [
    "Library",
    "Selabel",
    "compile_cil",
    "first_library",
    "image_to_cil",
    "refused",
    "set_booleans",
]

_SEPOL = "libsepol.so.2"
_SELINUX = "libselinux.so.1"


class _AvDecision(ctypes.Structure):
    # struct sepol_av_decision, libsepol policydb/flask_types.h
    _fields_ = (
        ("allowed", ctypes.c_uint32),
        ("decided", ctypes.c_uint32),
        ("auditallow", ctypes.c_uint32),
        ("auditdeny", ctypes.c_uint32),
        ("seqno", ctypes.c_uint32),
    )


_CIL_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)
_SELINUX_LOG = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p)

_ptr = ctypes.c_void_p
_ref = ctypes.POINTER(ctypes.c_void_p)
_u16p = ctypes.POINTER(ctypes.c_uint16)
_u32p = ctypes.POINTER(ctypes.c_uint32)
_intp = ctypes.POINTER(ctypes.c_int)
_sizep = ctypes.POINTER(ctypes.c_size_t)
_str = ctypes.c_char_p
_int = ctypes.c_int
_size = ctypes.c_size_t
_u32 = ctypes.c_uint32

_PROTOTYPES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "sepol_debug": (None, (_int,)),
    "sepol_set_policydb_from_file": (_int, (_ptr,)),
    "sepol_context_to_sid": (_int, (_str, _size, _u32p)),
    "sepol_sid_to_context": (_int, (_u32, _ref, _sizep)),
    "sepol_string_to_security_class": (_int, (_str, _u16p)),
    "sepol_string_to_av_perm": (_int, (ctypes.c_uint16, _str, _u32p)),
    "sepol_compute_av_reason": (
        _int,
        (_u32, _u32, ctypes.c_uint16, _u32, ctypes.POINTER(_AvDecision), _u32p),
    ),
    "sepol_compute_av_reason_buffer": (
        _int,
        (_u32, _u32, ctypes.c_uint16, _u32, ctypes.POINTER(_AvDecision), _u32p, _ref, _u32),
    ),
    "sepol_polcap_getname": (_str, (ctypes.c_uint,)),
    "sepol_policydb_create": (_int, (_ref,)),
    "sepol_policydb_free": (None, (_ptr,)),
    "sepol_policydb_from_image": (_int, (_ptr, _str, _size, _ptr)),
    "sepol_policydb_to_image": (_int, (_ptr, _ptr, _ref, _sizep)),
    "sepol_kernel_policydb_to_cil": (_int, (_ptr, _ptr)),
    "sepol_bool_create": (_int, (_ptr, _ref)),
    "sepol_bool_set_name": (_int, (_ptr, _ptr, _str)),
    "sepol_bool_set_value": (None, (_ptr, _int)),
    "sepol_bool_free": (None, (_ptr,)),
    "sepol_bool_key_create": (_int, (_ptr, _str, _ref)),
    "sepol_bool_key_free": (None, (_ptr,)),
    "sepol_bool_exists": (_int, (_ptr, _ptr, _ptr, _intp)),
    "sepol_bool_set": (_int, (_ptr, _ptr, _ptr, _ptr)),
    "cil_db_init": (None, (_ref,)),
    "cil_db_destroy": (None, (_ref,)),
    "cil_add_file": (_int, (_ptr, _str, _str, _size)),
    "cil_compile": (_int, (_ptr,)),
    "cil_build_policydb": (_int, (_ptr, _ref)),
    "cil_filecons_to_string": (_int, (_ptr, _ref, _sizep)),
    "cil_set_log_level": (None, (_int,)),
    "cil_set_log_handler": (None, (_CIL_LOG,)),
}


def _bind(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, (result, arguments) in _PROTOTYPES.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise UnsupportedError(
                f"{_SEPOL} has no {name}: it is older than 3.4; install a newer libsepol2"
            ) from error
        function.restype = result
        function.argtypes = arguments
    library.sepol_debug(0)
    return library


def _path_of_loaded(name: str) -> str:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")
            if path[1] and os.path.basename(path[2]).startswith(name):
                return "/" + path[2]
    raise InternalError(f"{name} is loaded but not in /proc/self/maps")


class Library:
    """One loaded copy of libsepol, the policy in its static variables, and their lock.

    SIDs, classes and permissions are the policy's numbers; 0 stands for unknown.
    """

    __slots__ = ("lib", "lock")

    def __init__(self, lib: ctypes.CDLL) -> None:
        self.lib = lib
        self.lock = threading.Lock()

    @classmethod
    def copy(cls) -> Library:
        """Load one more copy, with static variables of its own.

        The dynamic linker tells libraries apart by name and inode, so the bytes go into a
        memfd; its descriptor stays open so that no later copy gets the same name.
        dlmopen(3) would load a second libc as well, whose FILE objects the first cannot
        make.
        """
        with open(_path_of_loaded("libsepol.so"), "rb") as file:
            content = file.read()
        descriptor = os.memfd_create("libsepol", os.MFD_CLOEXEC)
        with open(descriptor, "wb", closefd=False) as copy:
            copy.write(content)
        return cls(_bind(ctypes.CDLL(f"/proc/self/fd/{descriptor}")))

    def load(self, image: bytes) -> bool:
        """Make `image` the policy that decides. False: it is refused, and nothing decides."""
        libc = _libc()
        with self.lock:
            stream = libc.fmemopen(image, len(image), b"rb")
            bad = self.lib.sepol_set_policydb_from_file(stream)
            libc.fclose(stream)
        return not bad

    def sid(self, context: bytes) -> int:
        """Return the SID of a context, 0 when the policy does not allow such a one."""
        sid = ctypes.c_uint32()
        with self.lock:
            bad = self.lib.sepol_context_to_sid(context, len(context) + 1, ctypes.byref(sid))
        return 0 if bad else sid.value

    def context(self, sid: int) -> bytes:
        """Return the canonical text of a SID's context."""
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        with self.lock:
            bad = self.lib.sepol_sid_to_context(sid, ctypes.byref(text), ctypes.byref(size))
        if bad:
            raise InternalError(f"sepol_sid_to_context({sid}) failed")
        return _take(text, size.value).rstrip(b"\0")

    def class_value(self, name: str) -> int:
        """Return the policy's number of a class."""
        value = ctypes.c_uint16()
        with self.lock:
            bad = self.lib.sepol_string_to_security_class(name.encode(), ctypes.byref(value))
        return 0 if bad else value.value

    def perm_bit(self, tclass: int, name: str) -> int:
        """Return the access vector bit of a permission."""
        value = ctypes.c_uint32()
        with self.lock:
            bad = self.lib.sepol_string_to_av_perm(tclass, name.encode(), ctypes.byref(value))
        return 0 if bad else value.value

    def compute_av(
        self, ssid: int, tsid: int, tclass: int, requested: int, *, explain: bool = False
    ) -> tuple[int, int, int, int, str]:
        """Return (allowed, auditallow, auditdeny, reason bits, text of failed constraints).

        The text is made only to `explain`.
        """
        decision, reason, text = _AvDecision(), ctypes.c_uint32(), ctypes.c_void_p()
        with self.lock:
            arguments = (ssid, tsid, tclass, requested)
            results = (ctypes.byref(decision), ctypes.byref(reason))
            if explain:
                bad = self.lib.sepol_compute_av_reason_buffer(
                    *arguments, *results, ctypes.byref(text), 0
                )
            else:
                bad = self.lib.sepol_compute_av_reason(*arguments, *results)
        if bad:
            raise InternalError(f"sepol_compute_av_reason{arguments} = {bad}")
        said = ""
        if text.value:
            said = ctypes.string_at(text.value).decode("utf-8", "replace")
            _libc().free(text)
        return decision.allowed, decision.auditallow, decision.auditdeny, reason.value, said

    def policycap(self, number: int) -> str | None:
        """Return the name of a policy capability, None for one this libsepol does not know."""
        name = self.lib.sepol_polcap_getname(number)
        return name.decode() if name else None


_first: Library | None = None
_first_lock = threading.Lock()


def first_library() -> Library:
    """Return the ordinarily loaded libsepol, which also compiles and converts.

    Raises UnsupportedError when there is none, or an older one.
    """
    global _first  # noqa: PLW0603 - a process has one set of loaded libraries
    with _first_lock:
        if _first is None:
            _first = Library(_open_first())
        return _first


def _open_first() -> ctypes.CDLL:
    try:
        return _bind(ctypes.CDLL(_SEPOL))
    except OSError as error:
        raise UnsupportedError(
            f"{_SEPOL} is missing, and SELinux policies are decided by it: "
            "install the package libsepol2 (Fedora: libsepol)"
        ) from error


_libc_bound: ctypes.CDLL | None = None


def _libc() -> ctypes.CDLL:
    global _libc_bound  # noqa: PLW0603
    if _libc_bound is None:
        libc = ctypes.CDLL(None)
        libc.fmemopen.restype, libc.fmemopen.argtypes = _ptr, (_str, _size, _str)
        libc.open_memstream.restype, libc.open_memstream.argtypes = _ptr, (_ref, _sizep)
        libc.fclose.restype, libc.fclose.argtypes = _int, (_ptr,)
        libc.free.restype, libc.free.argtypes = None, (_ptr,)
        _libc_bound = libc
    return _libc_bound


def _take(pointer: ctypes.c_void_p, size_bytes: int) -> bytes:
    """Copy a malloc'd buffer out and free it."""
    try:
        return ctypes.string_at(pointer, size_bytes) if pointer.value else b""
    finally:
        _libc().free(pointer)


def refused(where: str) -> UsageError:
    """Return the error for an image that libsepol does not read; it gives no reason."""
    return UsageError(
        f"{where}: libsepol refuses the policy: it is damaged, or of an unknown version"
    )


class _Image:
    """A policydb of its own (not the deciding one), read from `image`; a context manager."""

    __slots__ = ("database", "lib")

    def __init__(self, lib: ctypes.CDLL, image: bytes, where: str) -> None:
        self.lib = lib
        self.database = ctypes.c_void_p()
        lib.sepol_policydb_create(ctypes.byref(self.database))
        if lib.sepol_policydb_from_image(None, image, len(image), self.database):
            # libsepol has destroyed what the database held; only its struct is lost.
            raise refused(where)

    def __enter__(self) -> _Image:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.lib.sepol_policydb_free(self.database)


def _image_of(lib: ctypes.CDLL, database: ctypes.c_void_p) -> bytes:
    data, size = ctypes.c_void_p(), ctypes.c_size_t()
    if lib.sepol_policydb_to_image(None, database, ctypes.byref(data), ctypes.byref(size)):
        raise InternalError("sepol_policydb_to_image failed")
    return _take(data, size.value)


def compile_cil(sources: Iterable[tuple[str, bytes]], where: str) -> tuple[bytes, bytes]:
    """Compile CIL `sources` (name, text) in this process.

    Returns the kernel policy's image and the text of its ``filecon`` statements in
    file_contexts syntax. Raises UsageError with the compiler's own message.
    """
    copy = first_library()
    lib = copy.lib
    said: list[str] = []

    def log(_level: int, message: bytes) -> None:
        said.append(message.decode("utf-8", "replace"))

    handler = _CIL_LOG(log)
    with copy.lock:
        lib.cil_set_log_handler(handler)
        lib.cil_set_log_level(1)
        database, policy = ctypes.c_void_p(), ctypes.c_void_p()
        lib.cil_db_init(ctypes.byref(database))
        try:
            bad = 0
            for name, text in sources:
                bad = bad or lib.cil_add_file(database, os.fsencode(name), text, len(text))
            bad = bad or lib.cil_compile(database)
            bad = bad or lib.cil_build_policydb(database, ctypes.byref(policy))
            if bad:
                lines = " / ".join(" ".join(line.split()) for line in "".join(said).splitlines())
                raise UsageError(f"{where}: the CIL does not compile: {lines or f'error {bad}'}")
            contexts, size = ctypes.c_void_p(), ctypes.c_size_t()
            lib.cil_filecons_to_string(database, ctypes.byref(contexts), ctypes.byref(size))
            file_contexts = _take(contexts, size.value).rstrip(b"\0")
            return _image_of(lib, policy), file_contexts
        finally:
            if policy.value:
                lib.sepol_policydb_free(policy)
            lib.cil_db_destroy(ctypes.byref(database))


def image_to_cil(image: bytes, where: str) -> str:
    """Return the CIL text of a compiled kernel policy (sepol_kernel_policydb_to_cil)."""
    copy = first_library()
    libc = _libc()
    with copy.lock, _Image(copy.lib, image, where) as policy:
        data, size = ctypes.c_void_p(), ctypes.c_size_t()
        stream = libc.open_memstream(ctypes.byref(data), ctypes.byref(size))
        bad = copy.lib.sepol_kernel_policydb_to_cil(stream, policy.database)
        libc.fclose(stream)
        text = _take(data, size.value)
    if bad:
        raise InternalError(f"{where}: sepol_kernel_policydb_to_cil failed")
    return text.decode("utf-8", "surrogateescape")


def set_booleans(image: bytes, values: Mapping[str, bool], where: str) -> bytes:
    """Return `image` with the named booleans set. Raises UsageError on an unknown one."""
    copy = first_library()
    lib = copy.lib
    with copy.lock, _Image(lib, image, where) as policy:
        for name, value in values.items():
            key, boolean, exists = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
            lib.sepol_bool_key_create(None, name.encode(), ctypes.byref(key))
            lib.sepol_bool_create(None, ctypes.byref(boolean))
            try:
                lib.sepol_bool_exists(None, policy.database, key, ctypes.byref(exists))
                if not exists.value:
                    raise UsageError(f"{where}: the policy has no boolean named {name!r}")
                lib.sepol_bool_set_name(None, boolean, name.encode())
                lib.sepol_bool_set_value(boolean, int(value))
                if lib.sepol_bool_set(None, policy.database, key, boolean):
                    raise InternalError(f"sepol_bool_set({name!r}) failed")
            finally:
                lib.sepol_bool_free(boolean)
                lib.sepol_bool_key_free(key)
        return _image_of(lib, policy.database)


class _SelinuxOption(ctypes.Structure):
    # struct selinux_opt, libselinux selinux.h
    _fields_ = (("type", ctypes.c_int), ("value", ctypes.c_char_p))


# libselinux would print on stderr; it keeps this pointer for good, so it lives here.
_silent = _SELINUX_LOG(lambda _level, _form: 0)


class Selabel:
    """libselinux's matcher over one file of file contexts (selabel_open(3)).

    Raises UnsupportedError when libselinux is missing; `opened` tells whether it could
    read the file.
    """

    __slots__ = ("_handle", "_lib", "opened")

    def __init__(self, path: str) -> None:
        try:
            lib = ctypes.CDLL(_SELINUX)
        except OSError as error:
            raise UnsupportedError(
                f"{_SELINUX} is missing, and file_contexts are matched by it: "
                "install the package libselinux1 (Fedora: libselinux)"
            ) from error
        options = (_SelinuxOption * 1)(_SelinuxOption(3, os.fsencode(path)))  # SELABEL_OPT_PATH
        lib.selabel_open.restype = _ptr
        lib.selabel_open.argtypes = (ctypes.c_uint, _ptr, ctypes.c_uint)
        lib.selabel_lookup_raw.restype = _int
        lib.selabel_lookup_raw.argtypes = (_ptr, _ref, _str, _int)
        lib.selabel_close.argtypes = (_ptr,)
        lib.selinux_set_callback.argtypes = (_int, _SELINUX_LOG)
        lib.selinux_set_callback(0, _silent)  # SELINUX_CB_LOG
        self._lib = lib
        self._handle = lib.selabel_open(0, options, 1)  # SELABEL_CTX_FILE
        self.opened = bool(self._handle)

    def lookup(self, path: str, mode: int) -> str | None:
        """Return the context for `path` of file type `mode` (S_IFMT bits), None for none."""
        context = ctypes.c_void_p()
        if self._lib.selabel_lookup_raw(
            self._handle, ctypes.byref(context), os.fsencode(path), mode
        ):
            return None
        text = ctypes.string_at(context.value or 0).decode()
        _libc().free(context)
        return text

    def close(self) -> None:
        """Free libselinux's tables."""
        handle, self._handle = self._handle, None
        if handle:
            self._lib.selabel_close(handle)
