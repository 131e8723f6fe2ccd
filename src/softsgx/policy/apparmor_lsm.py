"""AppArmor's hooks on compiled profiles.

A process's label is the name of its profile or "unconfined". Stacked profiles are not
modelled; what a file was checked for is (`FileSecurity.checked`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from softsgx.law.values import R, W
from softsgx.lsm.apparmor import AppArmorHooks, M
from softsgx.lsm.objects import FileSecurity
from softsgx.lsm.verdict import Verdict
from softsgx.policy.apparmor import AppArmorPolicy, AppArmorProfile, mask_of, mask_text
from softsgx.policy.lsm import PolicyLsm

__all__ = ["UNCONFINED", "AppArmorLsm"]

UNCONFINED = "unconfined"
_MASKS = [
    mask_of("".join(letter for letter, bit in (("r", R), ("w", W), ("m", M)) if mask & bit))
    for mask in range(8)
]


class AppArmorLsm(PolicyLsm):
    """Answers the hooks by the profiles of ``policy``; ``label``: of processes without one."""

    name = "apparmor"

    def __init__(
        self,
        policy: AppArmorPolicy,
        label: str = UNCONFINED,
        sink: Callable[[Verdict], None] | None = None,
    ) -> None:
        super().__init__(AppArmorHooks(), label, sink)
        self.policy = policy
        if label != UNCONFINED:
            policy.profile(label)
        self._profiles: dict[str, AppArmorProfile] = {p.name: p for p in policy}

    def opened(self, file: Any, process: Any, fmode: int) -> FileSecurity:
        """A device node: known by its path; root owns it."""
        return FileSecurity(file.path, opener=self.label_of(process), fmode=fmode)

    def by_path(self, path: str, process: Any) -> FileSecurity:
        """A regular file."""
        return FileSecurity(path, opener=self.label_of(process))

    def without_rule(self, hook: str) -> int:  # noqa: ARG002 - every one it lacks is allowed
        """AppArmor has no hook for ioctls, anonymous inodes and modified code."""
        return 0

    # -- facts -------------------------------------------------------------------------

    def _unconfined(self, label: str) -> bool:
        return label == UNCONFINED or self._profiles[label].mode == UNCONFINED

    def unconfined(self, at: Any) -> int:
        """Whether the process may do all."""
        return int(self._unconfined(self.label_of(at.process)))

    def delegated(self, _at: Any, obj: FileSecurity) -> int:
        """Whether only unconfined processes have the file in their name."""
        return int(all(self._unconfined(label) for label in obj.checked))

    def checked(self, at: Any, obj: FileSecurity) -> int:
        """Whether the file's permissions were checked for this process's profile and no other."""
        return int(obj.checked <= {self.label_of(at.process)})

    # -- questions ---------------------------------------------------------------------

    def path(self, at: Any, obj: FileSecurity, op: str, mask: Any, others: Any = 0) -> None:
        """aa_path_perm() for the process's profile and, where more than is remembered is
        asked (``others``), for the other profiles that the file was checked for.
        """
        if not isinstance(mask, int):
            for each in set(mask.items):
                self.path(at, obj, op, each, others)
            return
        own = self.label_of(at.process)
        if not mask or self._unconfined(own):
            return
        if op == "open":
            names = [own]
        else:
            # __file_path_perm(): this one if it is new; then, for what is new, all the rest.
            names = [] if own in obj.checked else [own]
            if others:
                names += [own] if obj.checked == {own} else sorted(obj.checked - {own})
        wanted = _MASKS[mask]
        for name in dict.fromkeys(names):
            if not self._unconfined(name):
                self._path_of(at, obj, op, self._profiles[name], wanted)

    def _path_of(
        self, at: Any, obj: FileSecurity, op: str, profile: AppArmorProfile, wanted: int
    ) -> None:
        perms = profile.perms(obj.path, getattr(at.process, "fsuid", 0) == obj.owner)
        refused = wanted & ~perms.allow
        if refused:
            audited = refused if profile.audit_all else refused & ~perms.quiet
        else:
            audited = wanted if profile.audit_all else wanted & perms.audit
        # aa_audit_file(): a denial that a deny rule silences is one in complain mode, too.
        complain = profile.mode == "complain" and bool(audited)
        if refused or audited or self.all_verdicts:
            self.note(
                Verdict(
                    self.name,
                    op,
                    at.process,
                    profile.name,
                    obj.path,
                    "file",
                    tuple(mask_text(wanted)),
                    tuple(mask_text(refused)),
                    tuple(mask_text(audited)),
                    permissive=bool(refused) and complain,
                    file=obj,
                    # aa_audit(): the signal goes with the audit line, quiet denials send none.
                    kill=bool(refused & audited) and profile.mode == "kill",
                )
            )
        if refused and not complain:
            raise self.denied(f"the profile {profile.name} denies {mask_text(refused)}")

    def remember(self, at: Any, obj: FileSecurity, mask: Any) -> None:
        """update_file_ctx(): what was asked and granted need not be asked again."""
        label = self.label_of(at.process)
        if not isinstance(mask, int) or not mask or self._unconfined(label):
            return
        obj.allow |= mask
        obj.checked |= {label}
