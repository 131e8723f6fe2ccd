"""The smallest addition to a policy that a recorded run needs to pass.

It grants what was denied and nothing else. A run that was stopped by its first denial
tells no more than that one; recorded permissive, it tells all.
"""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.policy.selinux import SELinuxPolicy
from softsgx.policy.why import why
from softsgx.report.explain import profile_line
from softsgx.report.questions import LsmRun, Question

__all__ = ["cil_module", "profile_lines"]


def _denied(run: LsmRun) -> list[Question]:
    return [q for q in run.questions if q.denied and not q.at_exec]


def _one_line(text: str) -> str:
    """A name in a comment: it must not end the comment."""
    return " ".join(text.split())


def cil_module(run: LsmRun, policy: SELinuxPolicy) -> Iterator[str]:
    """The lines of a CIL module that goes with ``policy``, the one that the run was under.

    Rules that would not help (a constraint or a role denies it) are comments.
    """
    denied = _denied(run)
    program = _one_line(run.header["argv"][0])
    yield f"; Grants what a run of {program} was denied, and no more. To try it:"
    files = " ".join(f"--selinux {_one_line(name)}" for name in run.setup["policy"])
    yield f"; softsgx run {files} --selinux THIS-FILE …"
    if any(q.enforced for q in denied):
        yield "; The run was enforcing: what it would have asked after a denial is not known."
        yield "; Record it with --permissive to have all of it at once."
    if not denied:
        yield "; Nothing was denied."
    vectors: dict[tuple[str, str, str], set[str]] = {}
    commands: dict[tuple[str, str, str], set[int]] = {}
    obstacles: dict[str, None] = {}
    for q in denied:
        key = (policy.type_of(q.subject), policy.type_of(q.target), q.tclass)
        plain = policy.allowed(q.subject, q.target, q.tclass, q.denied)
        if plain.denied:
            vectors.setdefault(key, set()).update(plain.denied)
        if q.cmd is not None and policy.lists_ioctls(q.subject, q.target, q.tclass):
            commands.setdefault(key, set()).add(q.cmd & 0xFFFF)
        found = why(policy, q.subject, q.target, q.tclass, q.denied)
        obstacles |= dict.fromkeys(found.obstacles)
    for (source, target, tclass), perms in sorted(vectors.items()):
        yield f"(allow {source} {target} ({tclass} ({' '.join(sorted(perms))})))"
    for (source, target, tclass), numbers in sorted(commands.items()):
        listed = " ".join(f"0x{n:x}" for n in sorted(numbers))
        yield f"(allowx {source} {target} (ioctl {tclass} ({listed})))"
    for text in obstacles:
        yield f"; not enough: {text}"


def profile_lines(run: LsmRun) -> Iterator[str]:
    """The rules to add to the profiles of the run, each profile's under a comment."""
    denied = _denied(run)
    if any(q.enforced for q in denied):
        yield "# The run was enforcing: what it would have asked after a denial is not known."
        yield "# Record it with the profile in complain mode to have all of it at once."
    if not denied:
        yield "# Nothing was denied."
    needed: dict[str, dict[str, set[str]]] = {}
    for q in denied:
        needed.setdefault(q.subject, {}).setdefault(q.path, set()).update(q.denied)
    for profile, paths in needed.items():
        yield f"# for the profile {profile} in {_one_line(run.setup['policy'][0])}"
        for path, letters in sorted(paths.items()):
            yield f"  {profile_line(path, tuple(letters))}"
