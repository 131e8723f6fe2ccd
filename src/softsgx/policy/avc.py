"""The kernel's access vector cache, for what it has to do with the log.

A policy's answer does not say what is logged: in permissive mode the kernel grants what it
has just found denied in the cached decision of that source, target and class, so it logs
each permission once and not at every use. That memory is kept here, over a policy that
answers the same question always alike.

As a kernel's AVC it keeps at most 512 decisions; what falls out is logged anew. The kernel takes
16 from the next buckets of a hash whose other contents are the whole machine's; the oldest go here.
"""

from __future__ import annotations

from softsgx.policy.decision import Decision
from softsgx.policy.selinux import SELinuxPolicy

__all__ = ["Answer", "Avc"]

_IOCTL = ("ioctl",)
# Linux 6.1 security/selinux/avc.c: AVC_DEF_CACHE_THRESHOLD, AVC_CACHE_RECLAIM.
_MOST, _RECLAIMED = 512, 16


class Answer:
    """What comes of one question.

    decision: the policy's own. denied: what the cache and the policy deny together.
    audited: what is logged: of the denied if there are any, of the granted otherwise.
    """

    __slots__ = ("audited", "decision", "denied")

    def __init__(self, decision: Decision, denied: frozenset[str], audited: frozenset[str]) -> None:
        self.decision, self.denied, self.audited = decision, denied, audited


class _Node:
    """What was granted in one cached decision that the policy denies.

    Source: Linux 6.1 security/selinux/avc.c, avc_update_node(), AVC_CALLBACK_GRANT.
    """

    __slots__ = ("commands", "perms")

    def __init__(self) -> None:
        self.perms: set[str] = set()
        self.commands: set[int] = set()


class Avc:
    """The cache of one kernel: all processes of a run share it."""

    def __init__(self, policy: SELinuxPolicy) -> None:
        self.policy = policy
        self._nodes: dict[tuple[str, str, str], _Node] = {}
        self._seqno = policy.seqno

    def ask(
        self,
        scontext: str,
        tcontext: str,
        tclass: str,
        perms: tuple[str, ...],
        cmd: int | None = None,
    ) -> Answer:
        """avc_has_perm() or, with ``cmd``, avc_has_extended_perms()."""
        policy = self.policy
        if cmd is None:
            decision = policy.allowed(scontext, tcontext, tclass, perms)
        else:
            decision = policy.allowed_ioctl(scontext, tcontext, tclass, cmd)
        if not decision.denied:
            return Answer(decision, decision.denied, decision.audit_granted)
        if not decision.permissive:
            return Answer(decision, decision.denied, decision.audit)
        if self._seqno != policy.seqno:
            self._nodes.clear()
            self._seqno = policy.seqno
        key = (scontext, tcontext, tclass)
        node = self._nodes.get(key)
        if node is None:
            if len(self._nodes) >= _MOST:
                for old in list(self._nodes)[:_RECLAIMED]:
                    del self._nodes[old]
            node = self._nodes[key] = _Node()
        if cmd is None:
            denied = decision.denied - node.perms
            node.perms.update(perms)
        else:
            denied = self._denied_ioctl(node, key, decision, cmd & 0xFFFF)
        return Answer(
            decision, denied, denied & decision.auditdeny or self._granted(denied, decision)
        )

    def _denied_ioctl(
        self, node: _Node, key: tuple[str, str, str], decision: Decision, command: int
    ) -> frozenset[str]:
        """An ioctl that the policy denies: what is denied of it now, and granted from then on.

        Of a driver (the number's high byte) none of whose commands is allowed there is no
        list that the command could be added to: that one is denied, and logged, every time.
        Source: Linux 6.1 avc_has_extended_perms(), avc_xperms_allow_perm().
        """
        policy = self.policy
        plain = "ioctl" in node.perms or not policy.allowed(*key, _IOCTL).denied
        listed = command in node.commands or policy.lists_ioctl(*key, command)
        if plain and listed:
            return frozenset()
        node.perms.add("ioctl")
        if policy.lists_driver(*key, command >> 8):
            node.commands.add(command)
        return decision.denied

    @staticmethod
    def _granted(denied: frozenset[str], decision: Decision) -> frozenset[str]:
        """Of a decision that denies nothing any more the ``auditallow`` rules are looked at."""
        return frozenset() if denied else decision.auditallow
