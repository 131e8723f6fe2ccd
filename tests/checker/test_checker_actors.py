"""Actors that are asked for: what each breaks, where it does not, and two engines of one mind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.world.actors import ACTORS, parse_actors
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.permissions import parse_permissions
from softsgx.checker.world.rows import ROWS
from softsgx.checker.world.world import World
from softsgx.cli.main import main
from softsgx.designs.registry import make_design
from softsgx.errors import UsageError
from softsgx.law.rule import rule
from softsgx.sdm.leaves import ATTR_DEBUG
from softsgx.uapi.syscalls import SYSCALLS
from tests.checker.checker_toys import Careful
from tests.checker.needs import needs_abc

ALL = "device=read,write,execute;process=execmem;file=execute"


class NoDebug(Careful):
    """Careful, and no enclave is one that is debugged."""

    name = "no-debug"

    @rule("our own rule: DEBUG is what provisioning is, a privilege")
    def unprivileged(self, at: Any) -> int:
        """As before, but for DEBUG."""
        return int(super().unprivileged(at)) & ~ATTR_DEBUG


class Quick(Checker):
    """A checker that finds a shortest trace, or that there is none, and no more."""

    def __init__(self, design: Any, actors: tuple[str, ...], lsm: str, **more: Any) -> None:
        super().__init__(design, Options(1, 1, lsm=lsm, actors=actors, **more))

    def steps(self, name: str) -> list[str] | None:
        """The names of the trace's steps; None: there is none. ``held``: its permissions."""
        answer = self.decide(self.world.some(PROPERTIES[name].conditions(self.world)))
        assert answer.reached is not None
        if not answer.reached:
            return None
        self.held = {n: v for n, v in (answer.start or {}).items() if self.world.vars[n].frozen}
        return [step.move.name for step in answer.steps or []]


def _careful() -> Any:
    return Careful(source="prot", open="rdonly")


def _no_debug() -> Any:
    return NoDebug(source="prot", open="rdonly")


# Actor, LSM, design, property; whether the property holds without the actor, and with it.
BREAKS: list[tuple[str, str, Callable[[], Any], str, bool]] = [
    ("context", "selinux", lambda: make_design("linux-6.12"), "asked-here", False),
    ("context", "selinux", lambda: make_design("linux-6.12"), "asked", True),
    ("context", "selinux", _careful, "execute-needed", False),
    ("context", "selinux", _careful, "page-bound", True),
    ("context", "apparmor", lambda: make_design("linux-6.12"), "asked-here", False),
    ("unconfined", "apparmor", lambda: make_design("linux-6.12"), "asked", False),
    ("unconfined", "apparmor", lambda: make_design("linux-6.12"), "execute-needed", False),
    ("unconfined", "apparmor", _careful, "page-bound", True),
    ("unconfined", "selinux", lambda: make_design("linux-6.12"), "asked", True),
    ("debugger", "selinux", _careful, "modified-code", False),
    ("debugger", "selinux", _no_debug, "modified-code", True),
    ("debugger", "selinux", _careful, "asked", True),
    ("remap", "selinux", _careful, "modified-code", True),
    ("remap", "selinux", lambda: make_design("linux-6.12"), "asked", True),
    ("remap", "selinux", lambda: make_design("linux-6.12"), "asked-here", True),
]


# Where the second engine is quick.
EXPLICIT = (("context", "asked-here"), ("unconfined", "asked"), ("debugger", "modified-code"))


@needs_abc
@pytest.mark.parametrize(
    ("actor", "lsm", "design", "name", "holds"), BREAKS,
    ids=[f"{b[0]}-{b[1]}-{b[2]().name}-{b[3]}" for b in BREAKS],
)  # fmt: skip
def test_what_an_actor_breaks_held_without_it(
    actor: str, lsm: str, design: Any, name: str, holds: bool
) -> None:
    assert Quick(design(), (), lsm).steps(name) is None
    with_it = Quick(design(), (actor,), lsm)
    steps = with_it.steps(name)
    assert (steps is None) == holds
    if steps is not None:
        own = {"context": {"setcon", "exec"}, "unconfined": {"inherit"}, "debugger": {"debug"}}
        assert own[actor] & set(steps)
        if (actor, name) in EXPLICIT:  # the permissions of that trace: as short a one
            again = Quick(design(), (actor,), lsm, permissions=with_it.held, engine="explicit")
            assert len(again.steps(name) or ()) == len(steps)


@needs_abc
def test_a_process_that_gives_up_its_permissions_is_not_benign() -> None:
    given = parse_permissions("0:device=read,write,execute", 1) | parse_permissions(
        "0+:device=read,execute", 1, changes=True
    )
    checker = Quick(make_design("linux-6.12"), ("context",), "selinux", permissions=given)
    assert checker.steps("benign-runs") is None


def test_every_call_that_changes_mappings_is_a_step() -> None:
    changing = {row.name for row in SYSCALLS.values() if row.vma and row.vma.changes}
    assert set(ROWS) == changing
    world = World(make_design("linux-6.12"), 2, 2, actors=tuple(ACTORS))
    known = {m.name for m in build_moves(world)}
    for name, row in ROWS.items():
        assert set(row.steps) <= known, name
        assert row.why or row.steps == (name,), name


def test_a_world_has_no_actor_that_was_not_asked_for() -> None:
    def names(*actors: str) -> set[str]:
        return {m.name for m in build_moves(World(make_design("segments"), 1, 2, actors=actors))}

    assert {actor: names(actor) - names() for actor in ACTORS} == {
        "context": {"setcon", "exec"}, "unconfined": {"inherit"}, "debugger": {"debug"},
        "remap": {"remap"},
    }  # fmt: skip


def test_actors_are_named() -> None:
    assert parse_actors(["remap,context", "remap"]) == ("context", "remap")
    assert parse_actors(["all"]) == tuple(ACTORS)
    with pytest.raises(UsageError, match="no actor 'ptrace'; there are context"):
        parse_actors(["ptrace"])
    with pytest.raises(UsageError, match="without --actors context"):
        parse_permissions("0+:device=read", 1)


@needs_abc
def test_a_trace_tells_the_actor_and_both_contexts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--actors", "context", "--property", "asked-here", "--pages", "1", "--processes", "1"]
    assert main(["check", "linux-6.12", *args, "--trace-dir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "process 0 holds in its later context nothing" in out
    assert "process 0 changes its context (setcon, change_profile); its mappings stay" in out
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["actors"] == ["context"]
    assert main(["replay", "--print", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "0 setcon system_u:system_r:trace_process_0_later_t:s0\n" in shown
    assert "(type trace_process_0_later_t)" in shown
