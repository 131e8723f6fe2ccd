"""The SELinux engine: one loaded policy that answers as the kernel's security server.

What is decided where: allow rules, constraints, MLS, roles and bounds by libsepol
(`sepol`); ioctl extended permissions, transitions and permissive domains from the text
of the same policy (`rules`), which libsepol has but does not answer. A cache keyed by
the question stands where the kernel has its AVC: an answered question costs a dict
lookup, a new one some 40 µs.

The engine answers questions; which questions open, mmap or ioctl put is the hooks'
business. Names, not bits, are the interface: a policy numbers its classes and
permissions as it likes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from softsgx.errors import UsageError
from softsgx.inputs import opened
from softsgx.policy.decision import Decision
from softsgx.policy.image import UNKNOWN_ALLOW, PolicyHeader
from softsgx.policy.native import compile_cil, image_to_cil, set_booleans
from softsgx.policy.rules import Expression, PolicyText, parse
from softsgx.policy.sepol import PolicyDb
from softsgx.policy.transition import new_context, range_text

__all__ = ["MINIMAL", "SGX_MODULE", "SELinuxPolicy", "read_policy"]

# The policy that comes with softsgx: a loader whose rights are booleans.
MINIMAL = os.path.join(os.path.dirname(__file__), "minimal.cil")
# The permissions that no shipped policy has, as a module.
SGX_MODULE = os.path.join(os.path.dirname(__file__), "sgx.cil")

_NONE: frozenset[str] = frozenset()
_ALL = 0xFFFFFFFF
# Like the kernel's AVC the cache is bounded; what falls out is computed again.
_CACHE_LIMIT = 16384


class _Xperms:
    """Extended permissions of one (source, target, class): three sets of 16-bit commands."""

    __slots__ = ("allow", "auditallow", "dontaudit")

    def __init__(self) -> None:
        self.allow: set[int] = set()
        self.auditallow: set[int] = set()
        self.dontaudit: set[int] = set()


def read_policy(path: str) -> tuple[bytes, bytes]:
    """Read a compiled policy or a CIL file; return (image, file_contexts text).

    A file that starts with the policy's magic number is taken as compiled, one whose
    name ends in ``.cil`` is compiled here. Raises UsageError.
    """
    try:
        with opened(path) as file:
            content = file.read()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the policy: {error.strerror}") from error
    if path.endswith(".cil"):
        return compile_cil([(os.path.basename(path), content)], path)
    PolicyHeader(content, path)
    return content, b""


class SELinuxPolicy:
    """A policy that decides. Safe to share between threads; `close` when done.

    Attributes: `where` (name for messages), `version` (of the policydb format), `mls`,
    `seqno` (another one since when earlier answers count no more), `file_contexts` (text of
    a CIL policy's own filecon statements, empty for a compiled one).
    """

    __slots__ = (
        "_cache",
        "_db",
        "_enforcing",
        "_image",
        "_policycaps",
        "_sids",
        "_text",
        "_vectors",
        "_xperms",
        "file_contexts",
        "mls",
        "seqno",
        "version",
        "where",
    )

    def __init__(
        self,
        image: bytes,
        where: str,
        *,
        booleans: Mapping[str, bool] | None = None,
        enforcing: bool = True,
        file_contexts: bytes = b"",
    ) -> None:
        self._image = set_booleans(image, booleans, where) if booleans else image
        self.where = where
        self._enforcing = enforcing
        self.file_contexts = file_contexts
        self._db = PolicyDb(self._image, where)
        self.version, self.mls = self._db.header.version, self._db.header.mls
        self._policycaps = self._db.policycaps()
        self.seqno = 0
        self.forget()

    @classmethod
    def load(
        cls, path: str, *, booleans: Mapping[str, bool] | None = None, enforcing: bool = True
    ) -> SELinuxPolicy:
        """Load a compiled policy or a CIL file. Raises UsageError, UnsupportedError."""
        image, contexts = read_policy(path)
        return cls(
            image, path, booleans=booleans, enforcing=enforcing, file_contexts=contexts
        )  # fmt: skip

    @classmethod
    def from_cil(
        cls,
        text: str,
        where: str = "CIL text",
        *,
        booleans: Mapping[str, bool] | None = None,
        enforcing: bool = True,
    ) -> SELinuxPolicy:
        """Compile CIL `text` in this process and load it."""
        image, contexts = compile_cil([(where, text.encode())], where)
        return cls(
            image, where, booleans=booleans, enforcing=enforcing, file_contexts=contexts
        )  # fmt: skip

    def close(self) -> None:
        """Give the library copy back; the policy must not be asked any more."""
        self._db.close()

    def forget(self) -> None:
        """Forget every answer, SID and what was read of the text; the policy stays loaded."""
        self._cache: dict[tuple[str, str, str, tuple[str, ...], int], Decision] = {}
        self._vectors: dict[tuple[str, str, str], tuple[int, int, int, int]] = {}
        self._xperms: dict[tuple[str, str, str], _Xperms | None] = {}
        self._sids: dict[str, int] = {}
        self._text: PolicyText | None = None
        self.seqno += 1

    # What the policy says of itself

    @property
    def text(self) -> PolicyText:
        """The policy's rules as text (made at first use: 0.4 s for a distribution's policy)."""
        if self._text is None:
            self._text = PolicyText(image_to_cil(self._image, self.where))
        return self._text

    @property
    def enforcing(self) -> bool:
        """Are denials enforced (setenforce)? When not, they are still found and recorded."""
        return self._enforcing

    @enforcing.setter
    def enforcing(self, value: bool) -> None:
        self._enforcing = value
        self._cache.clear()
        self.seqno += 1  # as sel_write_enforce() resets the AVC

    @property
    def image(self) -> bytes:
        """The compiled policy that decides, booleans as set."""
        return self._image

    def has_policycap(self, name: str) -> bool:
        """Has the policy this capability, for example ``open_perms``?"""
        return name in self._policycaps

    def booleans(self) -> dict[str, bool]:
        """Return the policy's booleans and their present values."""
        return dict(self.text.booleans)

    def set_booleans(self, values: Mapping[str, bool]) -> None:
        """Set booleans by name, as setsebool does. Raises UsageError on an unknown one."""
        image = set_booleans(self._image, values, self.where)
        old, self._db = self._db, PolicyDb(image, self.where)
        old.close()
        self._image = image
        self.forget()

    # Contexts

    def sid(self, context: str) -> int:
        """Return the SID of a context. Raises UsageError when the policy has no such one."""
        sid = self._sids.get(context)
        if sid is None:
            sid = self._db.sid(context)
            if not sid:
                raise UsageError(f"{self.where}: not a context of this policy: {context}")
            self._sids[context] = sid
        return sid

    def valid(self, context: str) -> bool:
        """Is this a context that the policy allows?"""
        return context in self._sids or bool(self._db.sid(context))

    def canonical(self, context: str) -> str:
        """Return the context as the kernel prints it (aliases resolved, ranges compressed)."""
        return self._db.context(self.sid(context))

    def type_of(self, context: str) -> str:
        """Return the type of a context, aliases resolved."""
        return self.canonical(context).split(":")[2]

    def initial_context(self, name: str) -> str | None:
        """Return the context of an initial SID (``unlabeled``, ``file``, ``kernel``…)."""
        for item in self.text.statements("sidcontext"):
            if item.line.startswith(f"(sidcontext {name} "):
                return self._context_text(parse(item.line).sub(2))
        return None

    def fs_context(self, fstype: str) -> tuple[str, str] | None:
        """Return (behaviour, context) of a file system type: xattr, trans or task.

        Source: the policy's fs_use statements. None when it has none for `fstype`.
        """
        for item in self.text.statements("fsuse"):
            words = parse(item.line)
            if words[2] == fstype:
                return words.atom(1), self._context_text(words.sub(3))
        return None

    def _context_text(self, words: Expression) -> str:
        user, role, name = words.atom(0), words.atom(1), words.atom(2)
        if not self.mls:
            return f"{user}:{role}:{name}"
        return self.canonical(f"{user}:{role}:{name}:{range_text(words.sub(3))}")

    # Decisions

    def allowed(self, scontext: str, tcontext: str, tclass: str, perms: Iterable[str]) -> Decision:
        """Decide whether `scontext` holds `perms` of `tclass` on `tcontext`.

        Source: Linux 6.1 security/selinux/avc.c, avc_has_perm_noaudit(); unknown classes
        and permissions by the policy's handle_unknown, as ss/services.c map_decision().
        Raises UsageError for a context that the policy does not know.
        """
        asked = perms if isinstance(perms, tuple) else tuple(perms)
        found = self._cache.get((scontext, tcontext, tclass, asked, -1))
        if found is not None:
            return found
        return self._decide(scontext, tcontext, tclass, asked, -1)

    def allowed_ioctl(self, scontext: str, tcontext: str, tclass: str, cmd: int) -> Decision:
        """Decide the ``ioctl`` permission with the extended permission of `cmd`.

        Only the low 16 bits count: driver byte and function byte. Source: Linux 6.1
        avc_has_extended_perms(): one xperm rule of any kind for the pair, and all that is
        not listed is denied.
        """
        command = cmd & 0xFFFF
        found = self._cache.get((scontext, tcontext, tclass, ("ioctl",), command))
        if found is not None:
            return found
        return self._decide(scontext, tcontext, tclass, ("ioctl",), command)

    def _decide(
        self, scontext: str, tcontext: str, tclass: str, perms: tuple[str, ...], command: int
    ) -> Decision:
        allowed, auditallow, auditdeny, value = self._vector(scontext, tcontext, tclass)
        unknown_ok = self._db.header.handle_unknown == UNKNOWN_ALLOW
        granted, audit_denied, audit_granted = set(), set(), set()
        for name in perms:
            bit = self._db.perm_bit(value, name) if value else 0
            if bit & allowed or (not bit and unknown_ok):
                granted.add(name)
            if not bit or bit & auditdeny:
                audit_denied.add(name)
            if bit & auditallow:
                audit_granted.add(name)
        xperms = self._xperms_of(scontext, tcontext, tclass) if command >= 0 and value else None
        if xperms is not None:
            # The kernel has a decision for the driver only when some rule names that driver;
            # the lists are empty for it otherwise, which comes to the same.
            if command not in xperms.allow:
                granted.discard("ioctl")
            if command in xperms.dontaudit:
                audit_denied.discard("ioctl")
            if command not in xperms.auditallow:
                audit_granted.discard("ioctl")
        denied = frozenset(perms) - granted
        permissive = bool(denied) and (not self._enforcing or self.is_permissive(scontext))
        decision = Decision(
            frozenset(granted),
            denied,
            frozenset(audit_denied),
            frozenset(audit_granted),
            permissive,
        )  # fmt: skip
        if len(self._cache) >= _CACHE_LIMIT:
            self._cache.clear()
        self._cache[scontext, tcontext, tclass, perms, command] = decision
        return decision

    def _vector(self, scontext: str, tcontext: str, tclass: str) -> tuple[int, int, int, int]:
        key = (scontext, tcontext, tclass)
        vector = self._vectors.get(key)
        if vector is None:
            ssid, tsid = self.sid(scontext), self.sid(tcontext)
            value = self._db.class_value(tclass)
            vector = (0, 0, _ALL, 0)
            if value:
                vector = (*self._db.compute_av(ssid, tsid, value, _ALL)[:3], value)
            if len(self._vectors) >= _CACHE_LIMIT:
                self._vectors.clear()
            self._vectors[key] = vector
        return vector

    def reason(
        self, scontext: str, tcontext: str, tclass: str, perms: Iterable[str]
    ) -> tuple[int, str]:
        """Return why `perms` are not allowed: sepol's COMPUTEAV_* bits, and the constraints."""
        ssid, tsid = self.sid(scontext), self.sid(tcontext)
        value = self._db.class_value(tclass)
        wanted = 0
        for name in perms:
            wanted |= self._db.perm_bit(value, name)
        reason = self._db.compute_av(ssid, tsid, value, wanted)[3]
        return reason, self._db.constraint_text(ssid, tsid, value, wanted)

    def is_permissive(self, context: str) -> bool:
        """Is the context's domain permissive by itself (``typepermissive``)?"""
        if not self._db.header.permissive:
            return False
        line = f"(typepermissive {self.type_of(context)})"
        return any(item.line == line for item in self.text.statements("typepermissive"))

    def lists_ioctls(self, scontext: str, tcontext: str, tclass: str) -> bool:
        """Does any rule for these list ioctls, so that one that is not listed is denied?"""
        return self._xperms_of(scontext, tcontext, tclass) is not None

    def lists_ioctl(self, scontext: str, tcontext: str, tclass: str, command: int) -> bool:
        """Is the command (16 bits) listed, or does no rule for these list any?"""
        xperms = self._xperms_of(scontext, tcontext, tclass)
        return xperms is None or command in xperms.allow

    def lists_driver(self, scontext: str, tcontext: str, tclass: str, driver: int) -> bool:
        """Does a rule for these allow some command of the driver (its high byte)?"""
        xperms = self._xperms_of(scontext, tcontext, tclass)
        return xperms is not None and any(each >> 8 == driver for each in xperms.allow)

    def _xperms_of(self, scontext: str, tcontext: str, tclass: str) -> _Xperms | None:
        key = (scontext, tcontext, tclass)
        if key in self._xperms:
            return self._xperms[key]
        source, target = self.type_of(scontext), self.type_of(tcontext)
        text, found = self.text, None
        for keyword, field in (
            ("allowx", "allow"),
            ("auditallowx", "auditallow"),
            ("dontauditx", "dontaudit"),
        ):
            for item in text.matching(keyword, source, target, tclass):
                if item.holds(text.booleans):
                    found = found or _Xperms()
                    getattr(found, field).update(_commands(parse(item.line).sub(3).sub(2)))
        self._xperms[key] = found
        return found

    # Labels of new objects

    def transition(self, scontext: str, tcontext: str, tclass: str, name: str | None = None) -> str:
        """Return the label of a new object, or of a process after exec.

        `name` is the object's last path component, or an anonymous inode's ``[name]``.
        """
        found = new_context(
            self.text, self.canonical(scontext), self.canonical(tcontext), tclass, name
        )
        return self.canonical(found)

    def anon_inode_context(self, scontext: str, name: str) -> str:
        """Return the label of a new labelled anonymous inode, for example ``[sgx_segment]``.

        Source: Linux 6.1 selinux/hooks.c, selinux_inode_init_security_anon().
        """
        return self.transition(scontext, scontext, "anon_inode", name)

    def new_inode_context(self, scontext: str, fstype: str, tclass: str = "file") -> str:
        """Return the label of an inode that `scontext` makes on a file system without xattrs.

        memfds are class ``file`` on ``tmpfs``. Source: Linux 6.1 selinux/hooks.c,
        inode_doinit_with_dentry(), SECURITY_FS_USE_TRANS and _TASK.
        """
        found = self.fs_context(fstype)
        if found is None:
            return self.initial_context("unlabeled") or scontext
        behaviour, context = found
        if behaviour == "task":
            return self.canonical(scontext)
        return self.transition(scontext, context, tclass)


def _commands(words: Expression) -> set[int]:
    """The commands of an xperm statement: ``((range 0xa400 0xa402) 0xa4f0)``."""
    found: set[int] = set()
    for item in words:
        if isinstance(item, str):
            found.add(int(item, 0))
        elif item[0] == "range":
            found.update(range(int(item.atom(1), 0), int(item.atom(2), 0) + 1))
        else:
            found |= _commands(item)
    return found
