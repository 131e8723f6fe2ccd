"""A policy's answer to one question, in names of permissions: what the kernel's av_decision has."""

from __future__ import annotations

__all__ = ["Decision"]


class Decision:
    """The answer to one question, in names of permissions.

    `granted` and `denied` split what was asked by what the policy says. `permissive` is
    true when something is denied and that is not enforced (the policy as a whole, or the
    source domain, is permissive).
    `auditdeny` are those of what was asked that are logged when denied (all but
    ``dontaudit``), `auditallow` those that are logged when granted. Truth value: may the
    caller go on?
    """

    __slots__ = ("auditallow", "auditdeny", "denied", "granted", "permissive")

    def __init__(
        self,
        granted: frozenset[str],
        denied: frozenset[str],
        auditdeny: frozenset[str],
        auditallow: frozenset[str],
        permissive: bool,
    ) -> None:
        self.granted = granted
        self.denied = denied
        self.auditdeny = auditdeny
        self.auditallow = auditallow
        self.permissive = permissive

    @property
    def audit(self) -> frozenset[str]:
        """The denied permissions that an enforcing kernel logs."""
        return self.denied & self.auditdeny

    @property
    def audit_granted(self) -> frozenset[str]:
        """The granted permissions that a kernel logs, where nothing is denied."""
        return self.granted & self.auditallow

    def __bool__(self) -> bool:
        return self.permissive or not self.denied

    def __repr__(self) -> str:
        mode = " permissive" if self.permissive else ""
        return f"<Decision granted={sorted(self.granted)} denied={sorted(self.denied)}{mode}>"
