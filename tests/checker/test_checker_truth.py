"""The model of mm in the checker is the device's, which a real kernel's answers confirm: so do
its moves.

Each row of tests/data/truth about the device: a step of the world is possible where the
kernel answered yes, and nowhere else.
"""

from __future__ import annotations

import pytest

from softsgx.checker.world.move import Move
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import State, System
from softsgx.checker.world.world import World
from softsgx.designs.seed import SeedDesign
from tests.truthrows import Row, read

TYPES = {"shar": "MAP_SHARED", "priv": "MAP_PRIVATE", "shva": "MAP_SHARED_VALIDATE"}
READ, WRITE, EXECUTE, EXECMOD = 1, 2, 4, 8
HELD = {
    ("selinux", "kernel_t"): (READ | WRITE | EXECUTE | EXECMOD, 1),
    ("selinux", "loader_t"): (READ | WRITE | EXECUTE, 1),
    ("selinux", "weak_t"): (READ, 0),
    ("apparmor", "loader"): (READ | WRITE | EXECUTE, 0),
    ("apparmor", "weak"): (READ | WRITE, 0),
}
"""What the policies of the rows grant on the device, and EXECMEM. Nobody is unconfined here."""


class StandIn(SeedDesign):
    """The rows' device: MAP_PRIVATE has no place there, and the driver refuses nothing else."""

    name = "stand-in"


class Answers:
    """The world of one domain, asked as the rows' program asked the kernel."""

    def __init__(self, lsm: str, domain: str) -> None:
        world = World(StandIn(), 1, 1, lsm)
        build_moves(world)
        device, execmem = HELD[lsm, domain]
        self.system = System(world, {"may0.device": device, "may0.process": execmem})

    def step(self, state: State | None, name: str, prot: int = 0, **meta: object) -> State | None:
        """The state after the step, None where it is not possible (or is no move at all)."""
        found: list[Move] = [
            m
            for m in self.system.moves
            if m.name == name and all(m.meta[key] == value for key, value in meta.items())
        ]
        if state is None or not found:
            return None
        (move,) = found
        return self.system.step(state, move, {n: prot for n, _ in move.args})

    def row(self, row: Row) -> tuple[str, str, list[str]]:
        """The answers of a row: ``.`` or ``A`` (whichever errno) of open, mmap and mprotect."""
        fmode = 3 if row.mode == "rw" else 1
        opened = self.step(self.system.start({}), "open", fmode=fmode)
        if opened is None:
            return "A", "-" * 8, ["-" * 8] * 8
        mapped, changed = "", []
        for prot in range(8):
            there = self.step(opened, "mmap", prot, type=TYPES[row.sharing])
            mapped += "A" if there is None else "."
            changed.append(
                "-" * 8
                if there is None
                else "".join(
                    "A" if self.step(there, "mprotect", wanted) is None else "."
                    for wanted in range(8)
                )
            )
        return ".", mapped, changed


def _possible(letters: str) -> str:
    return "".join(c if c in ".-" else "A" for c in letters)


@pytest.mark.parametrize(("lsm", "name"), HELD)
def test_steps_are_possible_where_a_real_kernel_said_yes(lsm: str, name: str) -> None:
    truth = read({"selinux": "selinux-tiny"}.get(lsm, lsm))
    (domain,) = (d for d in truth.domains if d == name or f":{name}:" in d)
    rows = [row for row in truth.of_domain(domain) if row.kind == "sgx"]
    assert {row.sharing for row in rows} == set(TYPES)
    answers = Answers(lsm, name)
    refused = asked = 0
    for row in rows:
        opened, mapped, changed = answers.row(row)
        assert opened == _possible(row.open_answer), row
        assert mapped == _possible(row.mmap), row
        assert changed == [_possible(letters) for letters in row.mprotect], row
        asked += row.questions()
        refused += (mapped + "".join(changed)).count("A")
    assert asked > 100
    assert refused > 20
