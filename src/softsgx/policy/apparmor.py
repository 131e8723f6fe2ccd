"""The AppArmor engine: compiled profiles, and whether they allow a path.

The profile is compiled by `apparmor_parser`, the one program that knows the language,
and the DFA it writes is walked as the kernel walks it (`dfa`). So globs, variables,
alternations, ``owner``, ``deny`` and abstractions mean here what they mean there.

The parser is given the feature set of kernel ABI 3.0 where the machine has it: newer
parsers on newer kernels write a format with its permissions in a table of their own,
which kernel 6.1 does not read either.

What AppArmor mediates is small: r, w and m at open, mmap and mprotect of files with a
path. Which request a system call makes of it is the hooks' business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from softsgx.errors import UnsupportedError, UsageError
from softsgx.inputs import opened
from softsgx.policy.dfa import Dfa, Item, unpack

__all__ = [
    "APPEND",
    "EXEC",
    "LINK",
    "LOCK",
    "MMAP_EXEC",
    "READ",
    "WRITE",
    "AppArmorPolicy",
    "AppArmorProfile",
    "FilePerms",
    "compile_profile",
    "mask_of",
    "mask_text",
]

# The permission bits of a file DFA's accept words (Linux 6.1 security/apparmor/file.c,
# map_old_perms).
EXEC = 0x01
WRITE = 0x02
READ = 0x04
APPEND = 0x08
LINK = 0x10
LOCK = 0x20
MMAP_EXEC = 0x40
_CHANGE_PROFILE, _ONEXEC = 0x80000000, 0x40000000  # of the first accept word

# In the order of the kernel's audit lines (security/apparmor/lib.c, aa_file_perm_chrs).
_LETTERS = {"x": EXEC, "w": WRITE, "r": READ, "a": APPEND, "k": LOCK, "m": MMAP_EXEC, "l": LINK}
_MASKS: dict[str, int] = {}
_CLASS_FILE = 2
_MODES = ("enforce", "complain", "kill", "unconfined")
_FEATURES = "/etc/apparmor.d/abi/3.0"
_CACHE_LIMIT = 16384


def mask_of(letters: str) -> int:
    """Return the mask of permission letters, for example ``rw``. Raises UsageError."""
    mask = _MASKS.get(letters)
    if mask is None:
        mask = 0
        for letter in letters:
            if letter not in _LETTERS:
                known = "".join(_LETTERS)
                raise UsageError(f"{letters!r}: file permissions are letters of {known}")
            mask |= _LETTERS[letter]
        _MASKS[letters] = mask
    return mask


def mask_text(mask: int) -> str:
    """Return the letters of a mask in the order of the kernel's audit lines (``wrm``)."""
    return "".join(letter for letter, bit in _LETTERS.items() if mask & bit)


def compile_profile(path: str, *, features: str | None = None) -> bytes:
    """Compile a profile file with apparmor_parser; nothing is loaded into the kernel.

    `features` is a file of kernel features to compile for (default: those of ABI 3.0).
    Raises UnsupportedError when the parser is missing, UsageError with its message when
    the profile does not compile.
    """
    import shutil
    import subprocess

    search = os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin:/sbin"
    parser = shutil.which("apparmor_parser", path=search)
    if parser is None:
        raise UnsupportedError(
            "apparmor_parser is missing, and AppArmor profiles are compiled by it: "
            "install the package apparmor"
        )
    command = [parser, "--skip-kernel-load", "--skip-cache", "--stdout"]
    if features is None and os.path.exists(_FEATURES):
        features = _FEATURES
    if features is not None:
        command += ["--features-file", features]
    done = subprocess.run(
        [*command, path], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode or not done.stdout:
        said = [
            " ".join(line.split())
            for line in done.stderr.decode("utf-8", "replace").splitlines()
            if line.strip() and not line.startswith("Cache read/write disabled")
        ]
        raise UsageError(f"{path}: the profile does not compile: {' / '.join(said) or 'no reason'}")
    return done.stdout


class FilePerms:
    """What a profile says of one path: masks of what is allowed, audited, not audited."""

    __slots__ = ("allow", "audit", "quiet")

    def __init__(self, allow: int, audit: int, quiet: int) -> None:
        self.allow = allow
        self.audit = audit
        self.quiet = quiet

    def __repr__(self) -> str:
        return f"<FilePerms allow={mask_text(self.allow)!r} quiet={mask_text(self.quiet)!r}>"


class AppArmorProfile:
    """One compiled profile or hat.

    Attributes: `name` (a hat's is ``parent//hat``), `mode` (enforce, complain, kill or
    unconfined), `is_hat`, `audit_all` (flags=(audit)).
    """

    __slots__ = (
        "_cache",
        "_dfa",
        "_start",
        "_xmatch",
        "audit_all",
        "is_hat",
        "mode",
        "name",
    )

    def __init__(self, items: list[Item], where: str) -> None:
        self.name = _text_of(items[0], where)
        flags: list[int] = []
        self._xmatch: Dfa | None = None
        self._dfa: Dfa | None = None
        self._start = Dfa.START
        policy: Dfa | None = None
        policy_start = Dfa.START
        for item in items[1:]:
            if item.name == "flags":
                flags = [field.value for field in _items_of(item) if isinstance(field.value, int)]
            elif item.name == "policydb":
                for field in _items_of(item):
                    if field.name == "aadfa":
                        policy = _dfa_of(field, where)
                    elif field.name == "start" and isinstance(field.value, int):
                        policy_start = field.value
                    elif field.name == "perms":
                        raise UsageError(
                            f"{where}: compiled for a newer kernel than 6.1 (it has a permission "
                            "table); compile the profile with the features of ABI 3.0"
                        )
            elif item.name == "aadfa":
                # The DFA before the flags says which programs the profile attaches to.
                if flags:
                    self._dfa = _dfa_of(item, where)
                else:
                    self._xmatch = _dfa_of(item, where)
            elif item.name == "dfa_start" and isinstance(item.value, int):
                self._start = item.value
        if len(flags) < 3 or flags[1] >= len(_MODES):
            raise UsageError(f"{where}: the profile {self.name} has no flags that are understood")
        self.is_hat = bool(flags[0] & 1)
        self.mode = _MODES[flags[1]]
        self.audit_all = bool(flags[2])
        if self._dfa is None and policy is not None:
            self._dfa = policy
            self._start = policy.step(policy_start, _CLASS_FILE)
        self._cache: dict[tuple[str, bool], FilePerms] = {}

    def perms(self, path: str, owner: bool) -> FilePerms:
        """Return what the profile says of `path`; `owner`: does fsuid own the file?

        Directories end in ``/``. Source: Linux 6.1 security/apparmor/file.c,
        aa_str_perms(), aa_compute_fperms().
        """
        found = self._cache.get((path, owner))
        if found is None:
            found = self.lookup(path, owner)
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            self._cache[path, owner] = found
        return found

    def lookup(self, path: str, owner: bool) -> FilePerms:
        """Walk the DFA over `path`: `perms` without its cache."""
        if self._dfa is None:
            return FilePerms(0, 0, 0)
        state = self._dfa.walk(self._start, os.fsencode(path))
        shift = 0 if owner else 14
        first, second = self._dfa.accept[state] >> shift, self._dfa.accept2[state] >> shift
        return FilePerms(first & 0x7F, second & 0x7F, second >> 7 & 0x7F)

    def allowed(self, path: str, letters: str, owner: bool = True) -> bool:
        """Does the profile allow `letters` (of r, w, a, m, x, k, l) on `path`?

        The profile's mode is not looked at: in complain mode a denial is logged and let
        through, which is for the caller to do. An unconfined profile allows everything.
        """
        if self.mode == "unconfined":
            return True
        return not mask_of(letters) & ~self.perms(path, owner).allow

    def may_change(self, target: str, *, onexec: bool = False, path: str = "") -> bool:
        """Does a rule ``change_profile -> TARGET`` allow it; onexec: at the next execve.

        path: of the program that is executed then. The profile's mode is not looked at. Source:
        Linux 6.12 security/apparmor/domain.c, change_profile_perms(), profile_onexec();
        policy_compat.c, map_old_perms(): bits that no owner changes.
        """
        if self._dfa is None:
            return False
        bit, state = _ONEXEC if onexec else _CHANGE_PROFILE, self._start
        if path:
            state = self._dfa.walk(state, os.fsencode(path))
            if not self._dfa.accept[state] & _ONEXEC:
                return False
            state = self._dfa.step(state, 0)
        state = self._dfa.walk(state, os.fsencode(target))
        return bool(self._dfa.accept[state] & bit)

    def attaches_to(self, path: str) -> bool:
        """Does the profile attach to a program of this path when it is executed?"""
        if self._xmatch is None:
            return self.name == path and not self.is_hat
        state = self._xmatch.walk(Dfa.START, os.fsencode(path))
        return bool(self._xmatch.accept[state] & EXEC)


class AppArmorPolicy:
    """The profiles of one file, by name."""

    __slots__ = ("_profiles", "where")

    def __init__(self, blob: bytes, where: str) -> None:
        self.where = where
        self._profiles: dict[str, AppArmorProfile] = {}
        for item in unpack(blob, where):
            if item.name == "profile":
                profile = AppArmorProfile(_items_of(item), where)
                self._profiles[profile.name] = profile
        if not self._profiles:
            raise UsageError(f"{where}: there is no profile in it")

    @classmethod
    def load(cls, path: str, *, features: str | None = None) -> AppArmorPolicy:
        """Load a profile file, compiling it, or the output of ``apparmor_parser --stdout``.

        Raises UsageError, UnsupportedError.
        """
        try:
            with opened(path) as file:
                content = file.read()
        except OSError as error:
            raise UsageError(f"{path}: cannot read the profile: {error.strerror}") from error
        if not content.startswith(b"\x04\x08\x00version\x00"):
            content = compile_profile(path, features=features)
        return cls(content, path)

    def __iter__(self) -> Iterator[AppArmorProfile]:
        return iter(self._profiles.values())

    def names(self) -> list[str]:
        """Return the names of the profiles and hats (``parent//hat``), sorted."""
        return sorted(self._profiles)

    def profile(self, name: str) -> AppArmorProfile:
        """Return a profile or hat by name. Raises UsageError."""
        if name not in self._profiles:
            raise UsageError(
                f"{self.where}: no profile named {name!r}; it has {', '.join(self.names())}"
            )
        return self._profiles[name]

    def attached_to(self, path: str) -> AppArmorProfile | None:
        """Return the profile that a program of this path gets, None for unconfined.

        Raises UsageError when several profiles attach (the kernel would take the one that
        matches the longest literal beginning, or none).
        """
        found = [profile for profile in self if profile.attaches_to(path)]
        exact = [profile for profile in found if profile.name == path]
        if len(exact) == 1:
            return exact[0]
        if len(found) > 1:
            names = ", ".join(profile.name for profile in found)
            raise UsageError(f"{self.where}: several profiles attach to {path}: {names}")
        return found[0] if found else None


def _items_of(item: Item) -> list[Item]:
    return item.value if isinstance(item.value, list) else []


def _text_of(item: Item, where: str) -> str:
    if isinstance(item.value, str):
        return item.value
    raise UsageError(f"{where}: a compiled AppArmor profile without a name")


def _dfa_of(item: Item, where: str) -> Dfa:
    if isinstance(item.value, bytes):
        return Dfa(item.value, where)
    raise UsageError(f"{where}: a compiled AppArmor profile holds no DFA of this format")
