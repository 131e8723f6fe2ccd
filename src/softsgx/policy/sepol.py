"""libsepol by ctypes: the kernel's own SELinux decision code as a library.

libsepol (3.4 and later) carries the security server of the kernel, so what it
answers is what a kernel with that policy would answer; a rewrite of the type
enforcement, constraint and role rules in Python could only be worse. Looked at
and rejected: setools' ``TERuleQuery`` (four orders of magnitude slower, and it
knows rules, not decisions), a helper process (a hop for every uncached
question).

The library keeps **one** policy database and one SID table in static variables,
without a lock, and ctypes drops the GIL. So each `PolicyDb` owns a copy of the
library of its own (a second copy is the same file, put into a memfd and loaded
under another name), and each copy has a lock. A closed PolicyDb gives its copy
back; loading another policy into it leaks the old SID table, a few hundred bytes
to some tens of kilobytes, inside the library.

This is the one file of the room that uses ctypes; `FileContexts` (libselinux's
``selabel``) is here for that reason alone.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable, Mapping

from softsgx.errors import InternalError, UnsupportedError, UsageError
from softsgx.policy.image import PolicyHeader

__all__ = [
    "COMPUTEAV_BOUNDS",
    "COMPUTEAV_CONSTRAINT",
    "COMPUTEAV_RBAC",
    "COMPUTEAV_TE",
    "FileContexts",
    "PolicyDb",
    "booleans_of",
    "compile_cil",
    "policy_to_cil",
    "with_booleans",
]

# Why a permission was not allowed: bits of sepol_compute_av_reason (libsepol,
# policydb/services.h).
COMPUTEAV_TE = 1
COMPUTEAV_CONSTRAINT = 2
COMPUTEAV_RBAC = 4
COMPUTEAV_BOUNDS = 8

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
# A variadic callback: on x86-64 the first three values after the format arrive in
# registers as if they were declared, the rest on the stack.
_SEPOL_LOG = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, *([ctypes.c_void_p] * 5)
)
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
    "sepol_av_perm_to_string": (_str, (ctypes.c_uint16, _u32)),
    "sepol_compute_av_reason": (
        _int,
        (_u32, _u32, ctypes.c_uint16, _u32, ctypes.POINTER(_AvDecision), _u32p),
    ),
    "sepol_compute_av_reason_buffer": (
        _int,
        (_u32, _u32, ctypes.c_uint16, _u32, ctypes.POINTER(_AvDecision), _u32p, _ref, _u32),
    ),
    "sepol_polcap_getname": (_str, (ctypes.c_uint,)),
    "sepol_handle_create": (_ptr, ()),
    "sepol_handle_destroy": (None, (_ptr,)),
    "sepol_msg_set_callback": (None, (_ptr, _SEPOL_LOG, _ptr)),
    "sepol_policydb_create": (_int, (_ref,)),
    "sepol_policydb_free": (None, (_ptr,)),
    "sepol_policydb_from_image": (_int, (_ptr, _str, _size, _ptr)),
    "sepol_policydb_to_image": (_int, (_ptr, _ptr, _ref, _sizep)),
    "sepol_kernel_policydb_to_cil": (_int, (_ptr, _ptr)),
    "sepol_bool_iterate": (_int, (_ptr, _ptr, _ptr, _ptr)),
    "sepol_bool_get_name": (_str, (_ptr,)),
    "sepol_bool_get_value": (_int, (_ptr,)),
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


def _open_first() -> ctypes.CDLL:
    try:
        return _bind(ctypes.CDLL(_SEPOL))
    except OSError as error:
        raise UnsupportedError(
            f"{_SEPOL} is missing, and SELinux policies are decided by it: "
            "install the package libsepol2 (Fedora: libsepol)"
        ) from error


def _path_of_loaded(name: str) -> str:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")
            if path[1] and os.path.basename(path[2]).startswith(name):
                return "/" + path[2]
    raise InternalError(f"{name} is loaded but not in /proc/self/maps")


def _open_copy() -> ctypes.CDLL:
    """Load one more copy of libsepol, with static variables of its own.

    The dynamic linker tells libraries apart by name and inode, so the bytes go into a
    memfd; its descriptor stays open so that no later copy gets the same name. dlmopen(3)
    would load a second libc as well, whose FILE objects the first one cannot make.
    """
    with open(_path_of_loaded("libsepol.so"), "rb") as file:
        content = file.read()
    descriptor = os.memfd_create("libsepol", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as copy:
        copy.write(content)
    return _bind(ctypes.CDLL(f"/proc/self/fd/{descriptor}"))


class _Copy:
    """One loaded copy of the library and the lock that guards its static state."""

    __slots__ = ("lib", "lock")

    def __init__(self, lib: ctypes.CDLL) -> None:
        self.lib = lib
        self.lock = threading.Lock()


_pool_lock = threading.Lock()
_first: _Copy | None = None
_free: list[_Copy] = []


def _tools() -> _Copy:
    """The copy that compiles and converts; these calls leave its loaded policy alone."""
    global _first  # noqa: PLW0603 - a process has one set of loaded libraries
    with _pool_lock:
        if _first is None:
            _first = _Copy(_open_first())
            _free.append(_first)
        return _first


def _acquire() -> _Copy:
    _tools()
    with _pool_lock:
        if _free:
            return _free.pop()
        return _Copy(_open_copy())


def _release(copy: _Copy) -> None:
    with _pool_lock:
        _free.append(copy)


_libc_bound: ctypes.CDLL | None = None


def _libc() -> ctypes.CDLL:
    global _libc_bound  # noqa: PLW0603
    if _libc_bound is None:
        libc = ctypes.CDLL(None)
        libc.fmemopen.restype, libc.fmemopen.argtypes = _ptr, (_str, _size, _str)
        libc.open_memstream.restype, libc.open_memstream.argtypes = _ptr, (_ref, _sizep)
        libc.fclose.restype, libc.fclose.argtypes = _int, (_ptr,)
        libc.free.restype, libc.free.argtypes = None, (_ptr,)
        libc.snprintf.restype = _int
        _libc_bound = libc
    return _libc_bound


def _take(pointer: ctypes.c_void_p, size_bytes: int) -> bytes:
    """Copy a malloc'd buffer out and free it."""
    try:
        return ctypes.string_at(pointer, size_bytes) if pointer.value else b""
    finally:
        _libc().free(pointer)


class _Messages:
    """What the library says about an image, collected instead of printed."""

    __slots__ = ("callback", "handle", "lib", "lines")

    def __init__(self, lib: ctypes.CDLL) -> None:
        self.lib = lib
        self.lines: list[str] = []
        self.callback = _SEPOL_LOG(self._message)
        self.handle = lib.sepol_handle_create()
        lib.sepol_msg_set_callback(self.handle, self.callback, None)

    def _message(self, _arg: int, _handle: int, form: bytes, *values: int | None) -> None:
        buffer = ctypes.create_string_buffer(512)
        _libc().snprintf(
            buffer, _size(len(buffer)), form, *(ctypes.c_void_p(value) for value in values)
        )
        self.lines.append(buffer.value.decode("utf-8", "replace").strip())

    def close(self) -> None:
        self.lib.sepol_handle_destroy(self.handle)


class _Image:
    """A policydb of its own (not the deciding one), read from `image`; a context manager."""

    __slots__ = ("database", "lib", "messages")

    def __init__(self, lib: ctypes.CDLL, image: bytes, where: str) -> None:
        self.lib = lib
        self.messages = _Messages(lib)
        self.database = ctypes.c_void_p()
        lib.sepol_policydb_create(ctypes.byref(self.database))
        if lib.sepol_policydb_from_image(self.messages.handle, image, len(image), self.database):
            # libsepol has destroyed what the database held; only its struct is lost.
            reasons = "; ".join(line for line in self.messages.lines if line)
            self.messages.close()
            raise UsageError(f"{where}: libsepol refuses the policy: {reasons or 'no reason'}")

    def __enter__(self) -> _Image:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.lib.sepol_policydb_free(self.database)
        self.messages.close()

    def image(self) -> bytes:
        data, size = ctypes.c_void_p(), ctypes.c_size_t()
        if self.lib.sepol_policydb_to_image(
            self.messages.handle, self.database, ctypes.byref(data), ctypes.byref(size)
        ):
            raise InternalError(f"sepol_policydb_to_image: {'; '.join(self.messages.lines)}")
        return _take(data, size.value)


def compile_cil(sources: Iterable[tuple[str, bytes]], where: str) -> tuple[bytes, bytes]:
    """Compile CIL `sources` (name, text) in this process.

    Returns the kernel policy's image and the text of its ``filecon`` statements in
    file_contexts syntax. Raises UsageError with the compiler's own message.
    """
    copy = _tools()
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
            data, size = ctypes.c_void_p(), ctypes.c_size_t()
            if lib.sepol_policydb_to_image(None, policy, ctypes.byref(data), ctypes.byref(size)):
                raise InternalError("sepol_policydb_to_image failed on a compiled CIL policy")
            return _take(data, size.value), file_contexts
        finally:
            if policy.value:
                lib.sepol_policydb_free(policy)
            lib.cil_db_destroy(ctypes.byref(database))


def policy_to_cil(image: bytes, where: str) -> str:
    """Return the CIL text of a compiled kernel policy (sepol_kernel_policydb_to_cil)."""
    copy = _tools()
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


def booleans_of(image: bytes, where: str) -> dict[str, bool]:
    """Return the policy's booleans with their present values."""
    copy = _tools()
    found: dict[str, bool] = {}

    def each(boolean: int, _arg: int) -> int:
        name = copy.lib.sepol_bool_get_name(boolean)
        found[name.decode()] = bool(copy.lib.sepol_bool_get_value(boolean))
        return 0

    callback = ctypes.CFUNCTYPE(_int, _ptr, _ptr)(each)
    with copy.lock, _Image(copy.lib, image, where) as policy:
        copy.lib.sepol_bool_iterate(policy.messages.handle, policy.database, callback, None)
    return dict(sorted(found.items()))


def with_booleans(image: bytes, values: Mapping[str, bool], where: str) -> bytes:
    """Return `image` with the named booleans set. Raises UsageError on an unknown one."""
    copy = _tools()
    lib = copy.lib
    with copy.lock, _Image(lib, image, where) as policy:
        handle = policy.messages.handle
        for name, value in values.items():
            key, boolean, exists = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
            lib.sepol_bool_key_create(handle, name.encode(), ctypes.byref(key))
            lib.sepol_bool_create(handle, ctypes.byref(boolean))
            try:
                lib.sepol_bool_exists(handle, policy.database, key, ctypes.byref(exists))
                if not exists.value:
                    raise UsageError(f"{where}: the policy has no boolean named {name!r}")
                lib.sepol_bool_set_name(handle, boolean, name.encode())
                lib.sepol_bool_set_value(boolean, int(value))
                if lib.sepol_bool_set(handle, policy.database, key, boolean):
                    raise InternalError(f"sepol_bool_set({name!r}) failed")
            finally:
                lib.sepol_bool_free(boolean)
                lib.sepol_bool_key_free(key)
        return policy.image()


class PolicyDb:
    """A loaded policy, ready to decide; `close` gives its copy of the library back.

    Attributes: `header` (the policy's PolicyHeader), `where` (its name in messages).
    """

    __slots__ = ("_copy", "header", "where")

    def __init__(self, image: bytes, where: str) -> None:
        self.where = where
        self.header = PolicyHeader(image, where)
        copy = _acquire()
        libc = _libc()
        with copy.lock:
            stream = libc.fmemopen(image, len(image), b"rb")
            bad = copy.lib.sepol_set_policydb_from_file(stream)
            libc.fclose(stream)
        if bad:
            # Its database is half read: this copy must decide nothing any more. Reading
            # the image once more, into a database of its own, gives the reason.
            tools = _tools()
            with tools.lock, _Image(tools.lib, image, where):
                raise InternalError(f"{where}: libsepol loads the policy only sometimes")
        self._copy = copy

    def close(self) -> None:
        """Give the copy of the library back for another policy."""
        copy, self._copy = self._copy, None  # type: ignore[assignment]
        if copy is not None:
            _release(copy)

    def policycaps(self) -> frozenset[str]:
        """Return the names of the policy's capabilities, for example ``open_perms``."""
        names = (self._copy.lib.sepol_polcap_getname(n) for n in self.header.policycaps)
        return frozenset(name.decode() for name in names if name)

    def sid(self, context: str) -> int:
        """Return the SID of `context`, 0 when the policy does not allow such a context."""
        raw, sid = os.fsencode(context), ctypes.c_uint32()
        with self._copy.lock:
            bad = self._copy.lib.sepol_context_to_sid(raw, len(raw) + 1, ctypes.byref(sid))
        return 0 if bad else sid.value

    def context(self, sid: int) -> str:
        """Return the canonical text of a SID's context (aliases resolved, ranges compressed)."""
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        with self._copy.lock:
            bad = self._copy.lib.sepol_sid_to_context(sid, ctypes.byref(text), ctypes.byref(size))
        if bad:
            raise InternalError(f"sepol_sid_to_context({sid}) failed")
        return _take(text, size.value).rstrip(b"\0").decode("utf-8", "surrogateescape")

    def class_value(self, name: str) -> int:
        """Return the policy's number of a class, 0 when it has no such class."""
        value = ctypes.c_uint16()
        with self._copy.lock:
            bad = self._copy.lib.sepol_string_to_security_class(name.encode(), ctypes.byref(value))
        return 0 if bad else value.value

    def perm_name(self, tclass: int, bit: int) -> str | None:
        """Return the name of one access vector bit, None when the class has no such one."""
        with self._copy.lock:
            name = self._copy.lib.sepol_av_perm_to_string(tclass, bit)
        return name.split()[0].decode() if name and name.split() else None

    def perm_bit(self, tclass: int, name: str) -> int:
        """Return the access vector bit of a permission, 0 when the class has no such one."""
        value = ctypes.c_uint32()
        with self._copy.lock:
            bad = self._copy.lib.sepol_string_to_av_perm(tclass, name.encode(), ctypes.byref(value))
        return 0 if bad else value.value

    def compute_av(
        self, ssid: int, tsid: int, tclass: int, requested: int
    ) -> tuple[int, int, int, int]:
        """Return (allowed, auditallow, auditdeny, reason) as access vectors; COMPUTEAV_*.

        Source: libsepol, sepol_compute_av_reason().
        """
        decision, reason = _AvDecision(), ctypes.c_uint32()
        with self._copy.lock:
            bad = self._copy.lib.sepol_compute_av_reason(
                ssid, tsid, tclass, requested, ctypes.byref(decision), ctypes.byref(reason)
            )
        if bad:
            raise InternalError(f"sepol_compute_av_reason({ssid}, {tsid}, {tclass}) = {bad}")
        return decision.allowed, decision.auditallow, decision.auditdeny, reason.value

    def constraint_text(self, ssid: int, tsid: int, tclass: int, requested: int) -> str:
        """Return libsepol's text of the constraints that fail, empty when none does."""
        decision, reason, text = _AvDecision(), ctypes.c_uint32(), ctypes.c_void_p()
        with self._copy.lock:
            self._copy.lib.sepol_compute_av_reason_buffer(
                ssid, tsid, tclass, requested, ctypes.byref(decision), ctypes.byref(reason),
                ctypes.byref(text), 0,
            )  # fmt: skip
        if not text.value:
            return ""
        said = ctypes.string_at(text.value).decode("utf-8", "replace")
        _libc().free(text)
        return said


# libselinux would print on stderr; it keeps this pointer for good, so it lives here.
_silent = _SELINUX_LOG(lambda _level, _form: 0)


class FileContexts:
    """Labels of paths by a file_contexts file, matched by libselinux (selabel(5))."""

    __slots__ = ("_handle", "_lib", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            lib = ctypes.CDLL(_SELINUX)
        except OSError as error:
            raise UnsupportedError(
                f"{_SELINUX} is missing, and file_contexts are matched by it: "
                "install the package libselinux1 (Fedora: libselinux)"
            ) from error
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file of file contexts")
        options = (_SelinuxOption * 1)(_SelinuxOption(3, os.fsencode(path)))  # SELABEL_OPT_PATH
        lib.selabel_open.restype = _ptr
        lib.selabel_open.argtypes = (ctypes.c_uint, _ptr, ctypes.c_uint)
        lib.selabel_lookup_raw.restype = _int
        lib.selabel_lookup_raw.argtypes = (_ptr, _ref, _str, _int)
        lib.selabel_close.argtypes = (_ptr,)
        lib.selinux_set_callback.argtypes = (_int, _SELINUX_LOG)
        self._lib = lib
        lib.selinux_set_callback(0, _silent)  # SELINUX_CB_LOG
        self._handle = lib.selabel_open(0, options, 1)  # SELABEL_CTX_FILE
        if not self._handle:
            raise UsageError(f"{path}: libselinux cannot read it as file contexts")

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


class _SelinuxOption(ctypes.Structure):
    # struct selinux_opt, libselinux selinux.h
    _fields_ = (("type", ctypes.c_int), ("value", ctypes.c_char_p))
