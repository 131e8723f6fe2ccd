"""Credentials as a security module keeps them, and how programs change them by /proc/PID/attr.

libselinux's setcon() and setexeccon() write there, and libapparmor's aa_change_profile(),
aa_change_onexec() and aa_change_hat(). The order of questions and errnos is the kernel's; what a
question says is the policy's.

Source: Linux 6.12 selinux_lsm_getattr(), selinux_lsm_setattr(), security_bounded_transition();
apparmor_getprocattr(), do_setattr(), aa_change_profile(), aa_change_hat(), change_hat().
"""

from __future__ import annotations

import re
from collections.abc import Callable
from errno import EACCES, ECHILD, EINVAL, ENOENT, EPERM
from typing import Any

from softsgx.complaints import complain
from softsgx.law.rule import Stop
from softsgx.lsm.verdict import Verdict
from softsgx.policy.apparmor import AppArmorProfile
from softsgx.policy.apparmor_lsm import UNCONFINED, AppArmorLsm
from softsgx.policy.rules import parse
from softsgx.policy.selinux_lsm import SELinuxLsm

__all__ = ["Credentials", "onexec_allowed", "read_attribute", "write_attribute"]

_HOOK = "setprocattr"
_SETS = {"current": "setcurrent", "exec": "setexec", "fscreate": "setfscreate",
         "keycreate": "setkeycreate", "sockcreate": "setsockcreate"}  # fmt: skip
_MOST_HATS = 16
_TOKEN = re.compile(rb"(?:0[xX])?[0-9a-fA-F]+")


class Credentials:
    """Of a thread: ``label``, and what it has asked for of later.

    exec: the label of the next program; prev: SELinux's of before the last execve, AppArmor's of
    outside the hat, which ``token`` opens. fscreate, keycreate, sockcreate: SELinux's of new
    objects. ``""`` where there is none.
    """

    __slots__ = ("exec", "fscreate", "keycreate", "label", "prev", "sockcreate", "token")

    def __init__(self, label: str) -> None:
        self.label, self.token = label, 0
        self.exec = self.prev = self.fscreate = self.keycreate = self.sockcreate = ""

    def copy(self) -> Credentials:
        """Those of a child."""
        new = Credentials(self.label)
        for name in self.__slots__:
            setattr(new, name, getattr(self, name))
        return new


def read_attribute(lsm: Any, who: Any, creds: Credentials, name: str, *, own: bool) -> bytes:
    """What a file of /proc/PID/attr says. own: it is the reader's. Raises Stop.

    who: the reader, of whom another process's is asked.
    """
    value = creds.label if name == "current" else getattr(creds, name)
    if isinstance(lsm, SELinuxLsm):
        if not own:
            reader = lsm.label_of(who)
            lsm.decide(who, reader, creds.label, "process", ("getattr",), hook="getprocattr")
        return value.encode() + b"\0" if value else b""
    if name not in ("current", "prev", "exec") or not value:
        raise Stop(EINVAL, f"there is no label {name}")
    mode = "" if value == UNCONFINED else f" ({lsm.policy.profile(value).mode})"
    return f"{value}{mode}\n".encode()


def write_attribute(
    lsm: Any, who: Any, creds: Credentials, name: str, data: bytes, *, alone: bool
) -> tuple[int, Credentials]:
    """What becomes of a thread that writes ``data``, and how much of it was written. Raises Stop.

    alone: the process has no other thread. who: the thread; it is not changed.
    """
    if isinstance(lsm, SELinuxLsm):
        return _Selinux(lsm, who, creds, alone).write(name, data)
    assert isinstance(lsm, AppArmorLsm)
    return len(data), _AppArmor(lsm, who, creds).write(name, data)


class _Selinux:
    def __init__(self, lsm: SELinuxLsm, who: Any, creds: Credentials, alone: bool) -> None:
        self.lsm, self.who, self.creds, self.alone = lsm, who, creds, alone

    def _ask(self, target: str, perm: str, tclass: str = "process") -> None:
        self.lsm.decide(self.who, self.creds.label, target, tclass, (perm,), hook=_HOOK)

    def write(self, name: str, data: bytes) -> tuple[int, Credentials]:
        if name not in _SETS:
            raise Stop(EINVAL, f"{name} is not set")
        own = self.creds.label
        self._ask(own, _SETS[name])
        label = ""
        if data[:1] not in (b"", b"\0", b"\n"):
            data = data.removesuffix(b"\n")
            label = self._context(data)
        if name == "keycreate" and label:
            self._ask(label, "create", "key")
        new = self.creds.copy()
        if name != "current":
            setattr(new, name, label)
            return len(data), new
        if not label:
            raise Stop(EINVAL, "no context is written")
        if not self.alone and not self._bounded(label):
            raise Stop(EPERM, f"{label} is not bounded by {own}, and there are other threads")
        self._ask(label, "dyntransition")
        new.label = label
        return len(data), new

    def _context(self, data: bytes) -> str:
        text = data.removesuffix(b"\0").decode("utf-8", "surrogateescape")
        policy = self.lsm.policy
        if "\0" in text or not policy.valid(text):
            raise Stop(EINVAL, f"no context of this policy: {text}")
        return policy.canonical(text)

    def _bounded(self, label: str) -> bool:
        """Whether the new type's bounds lead to the old type; the same type is within itself."""
        policy = self.lsm.policy
        above = {}
        for item in policy.text.statements("typebounds"):
            words = parse(item.line)
            above[words.atom(2)] = words.atom(1)
        wanted, found = policy.type_of(self.creds.label), policy.type_of(label)
        while found != wanted and found in above:
            found = above[found]
        return found == wanted


class _AppArmor:
    def __init__(self, lsm: AppArmorLsm, who: Any, creds: Credentials) -> None:
        self.lsm, self.who, self.new = lsm, who, creds.copy()
        self.label = creds.label
        # An unconfined process has no profile here; in the kernel it has one that allows all.
        self.profile = None if self.label == UNCONFINED else lsm.policy.profile(self.label)
        self.confined = self.profile is not None and self.profile.mode != UNCONFINED
        self.complains = self.profile is not None and self.profile.mode == "complain"

    def write(self, name: str, data: bytes) -> Credentials:
        text = data.partition(b"\0")[0].strip(b" \t\n\v\f\r")
        command, space, rest = text.partition(b" ")
        args = rest.lstrip(b" \t\n\v\f\r")
        if not space or not args:
            raise Stop(EINVAL, "no command with a name is written")
        known: dict[tuple[str, bytes], Callable[[], None]] = {
            ("current", b"changehat"): lambda: self._change_hat(data, args, test=False),
            ("current", b"permhat"): lambda: self._change_hat(data, args, test=True),
            ("current", b"changeprofile"): lambda: self._change(args),
            ("current", b"permprofile"): lambda: self._change(args, test=True),
            ("current", b"stack"): lambda: self._change(b"&" + args),
            ("exec", b"exec"): lambda: self._change(args, onexec=True),
            ("exec", b"stack"): lambda: self._change(b"&" + args, onexec=True),
        }  # fmt: skip
        if (name, command) not in known:
            self._log("setprocattr", "", name, EINVAL)
            raise Stop(EINVAL, f"no command of {name}: {command!r}")
        known[name, command]()
        return self.new

    def _log(self, hook: str, target: str, asked: str, error: int, *, audited: bool = True) -> None:
        granted = not error or (self.complains and error == EACCES)
        if not audited and not self.lsm.all_verdicts:
            return
        denied = (asked,) if error else ()
        self.lsm.note(
            Verdict(
                "apparmor", hook, self.who, self.label, target, "profile", (asked,), denied,
                denied if audited else (), permissive=bool(error) and granted,
            )
        )  # fmt: skip

    def _change(self, args: bytes, *, onexec: bool = False, test: bool = False) -> None:
        """aa_change_profile()."""
        op = "change_onexec" if onexec else "change_profile"
        text = args.decode("utf-8", "surrogateescape")
        if text.startswith("&") or "//&" in text:
            complain(f"stacked AppArmor profiles are not modelled: {text!r} is refused")
            raise Stop(EACCES, "stacked profiles are not modelled")
        if text != UNCONFINED and text not in self.lsm.policy.names():
            if self.complains and not test:
                return  # a learning profile, which allows what this one does: all, and logs it
            self._log(op, text, "exists", ENOENT)
            raise Stop(ENOENT, f"there is no profile {text}")
        allowed = not self.confined
        if self.profile is not None and self.confined:
            allowed = self.profile.may_change(text, onexec=onexec)
        self._log(op, text, op, 0 if allowed else EACCES, audited=not allowed)
        if not allowed and not self.complains:
            raise Stop(EACCES, f"the profile {self.label} has no rule change_profile -> {text}")
        if test:
            return
        if onexec:
            self.new.exec = text
        else:
            self.new.label = text

    def _change_hat(self, data: bytes, args: bytes, *, test: bool) -> None:
        """aa_setprocattr_changehat() and aa_change_hat()."""
        number, caret, first = args.partition(b"^")
        token = int(number, 16) & (1 << 64) - 1 if _TOKEN.fullmatch(number) else -1
        if token < 0 or not caret or (not first and not token):
            raise Stop(EINVAL, "no token and hat are written")
        # Names are told apart by their ends.
        rest = data[data.index(b"^") + 1 :].rstrip(b"\0") if first else b""
        hats = [name.decode("utf-8", "surrogateescape") for name in rest.split(b"\0")[:_MOST_HATS]]
        if not self.confined:
            raise Stop(EPERM, "unconfined can not change_hat")
        new = self.new
        if first:
            hat = self._hat([h.rstrip() for h in hats])
            if test:
                return
            if new.prev and new.token != token:
                self._kill()
            if not new.prev:
                new.prev, new.token = self.label, token
            new.label, new.exec = hat, ""
        elif not test and new.prev:
            if new.token != token:
                self._kill()
            new.label, new.prev, new.exec, new.token = new.prev, "", "", 0

    def _hat(self, names: list[str]) -> str:
        """change_hat(): the first of these hats that there is."""
        profile = self.profile
        assert profile is not None
        root = self.label.rpartition("//")[0] if profile.is_hat else self.label
        known = {p.name: p for p in self.lsm.policy}
        for name in names:
            hat = known.get(f"{root}//{name}")
            if hat is not None and not hat.is_hat:
                raise Stop(EPERM, "target not hat")
            if hat is not None:
                self._log("change_hat", hat.name, "change_hat", 0, audited=False)
                return hat.name
            if self.complains:
                return self.label  # a learning profile
        error = ENOENT if any(n.rpartition("//")[0] == self.label for n in known) else ECHILD
        self._log("change_hat", "", "change_hat", error, audited=len(names) > 1)
        raise Stop(error, "hat not found" if error == ENOENT else "no hats defined")

    def _kill(self) -> None:
        """Who guesses the token is killed."""
        self.lsm.note(
            Verdict(
                "apparmor", "change_hat", self.who, self.label, self.new.prev, "profile",
                ("change_hat",), ("change_hat",), ("change_hat",), kill=True,
            )
        )  # fmt: skip
        raise Stop(EACCES, "another token")


def onexec_allowed(profile: AppArmorProfile | None, path: str, target: str) -> bool:
    """profile_onexec(): whether executing a path may lead to the profile that was asked for."""
    return profile is None or profile.mode in (UNCONFINED, "complain") or (
        profile.may_change(target, onexec=True, path=path)
    )  # fmt: skip
