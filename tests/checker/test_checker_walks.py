"""Random walks of the checker's world, taken by a real process: what the one allows and refuses,
so does the other.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from softsgx.checker.engines.answer import Step
from softsgx.checker.witnesses.confine import domain, policy_of, profile, profiles_of
from softsgx.checker.witnesses.script import orders_of
from softsgx.checker.witnesses.words import step_words
from softsgx.checker.world.move import Move
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.sources import SOURCES
from softsgx.checker.world.system import State, System
from softsgx.checker.world.world import World
from softsgx.designs.registry import make_design
from softsgx.sdm.leaves import PT_TCS
from tests.checker.needs import needs_apparmor, needs_sepol
from tests.command import Softsgx

pytestmark = needs_sepol

DESIGNS = [
    "linux-6.0", "linux-5.11", "sgx2-v2", "sgx2-v2:eaug=rwx", "safe-to-execute",
    "safe-to-execute:clear=always", "source-vma", "source-vma:snapshot=may",
    "ioc-mprotect", "ioc-mprotect:open=rdonly",
    "ioc-mprotect:open=rdonly,source=prot", "safe-to-execute:repaired", "source-vma:repaired",
    "ioc-mprotect:repaired", "segments", "segments:repaired",
]  # fmt: skip
HELD = [
    {"may0.device": 15, "may0.process": 1},
    {"may0.device": 7, "may0.process": 0},
    {"may0.device": 7, "may0.process": 1},
    {"may0.device": 5, "may0.process": 0},
    {"may0.device": 3, "may0.process": 0},
]
# The order is refused for another reason, or answers 0 where the world has nothing to do.
NEVER_TRIED = {"munmap", "foreign", "fork", "touch", "code", "entry", "create", "open"}
NOEXEC = range(8, 12)
MALLOC, FILE_RX = 0, 6


class Walk:
    """A walk of the model, and the orders with the answers that it foretells."""

    def __init__(self, text: str, held: dict[str, int], seed: int) -> None:
        self.random = random.Random(seed)
        world = World(make_design(text), 2, 1)
        build_moves(world)
        held = held | {"may0.file": 3}
        for name in world.objects[1:]:  # segments: as the device
            held[f"may0.{name}"] = held["may0.device"]
        self.system = System(world, held)
        self.state: State = self.system.start({})
        self.trace: dict[str, Any] = {
            "design": world.design.name, "options": world.design.chosen, "processes": 1,
            "permissions": {n: v for n, v in held.items() if v},
            "steps": [],
        }  # fmt: skip
        self.possible: list[bool] = []
        self.segments = world.has_segments
        self.sgx2 = world.design.sgx2  # without it the device has no SGX2 in its CPU, either

    def add(self, move: Move, args: dict[str, int], possible: bool) -> None:
        data = {"step": move.name, **move.meta, **args}
        data["words"] = step_words(Step(move, args, self.state))
        if move.name == "eaccept":
            page = f"page{move.meta['i']}."
            names = ("perm", "pt", "pending", "modified", "pr")
            data |= {name: self.state[page + name] for name in names}
        self.trace["steps"].append(data)
        self.possible.append(possible)

    def named(self, name: str, **meta: Any) -> Iterator[Move]:
        for move in self.system.moves:
            if move.name == name and all(move.meta[k] == v for k, v in meta.items()):
                yield move

    def take(self, move: Move, args: dict[str, int]) -> bool:
        after = self.system.step(self.state, move, args)
        if after is not None:
            self.add(move, args, True)
            self.state = after
        return after is not None

    def enter(self) -> None:
        """What entering takes is mapped by one order, code and all: as the program adds it."""
        for move in self.named("entry"):
            way = move.meta["way"]
            code = next(self.named("code", way=way), None)
            both = self.system.step(self.state, move, {"source": MALLOC})
            if code is None or both is None or way == "mmap-validate":
                continue
            both = self.system.step(both, code, {"source": FILE_RX})
            if both is not None:
                self.add(move, {"source": MALLOC}, True)
                self.state = both
                return

    def tries(self, move: Move, args: dict[str, int]) -> bool:
        """Whether a real process would be refused for what the world refuses it for."""
        if move.name in NEVER_TRIED or args.get("source", 0) in NOEXEC:
            return False
        source = SOURCES[args.get("source", 0)]
        if source.execmem > self.state["may0.process"]:
            return False  # sources are not confined, only the device is
        i = move.meta.get("i", 0)
        # The driver refuses an mmap when what lay there is gone already.
        if move.name.startswith("mmap") and self.state[f"vma0_{i}.mapped"]:
            return False
        if move.name in ("emodpe", "eaccept", "eacceptcopy"):
            return bool(self.state["process0.code"])
        return True

    def reserve(self) -> None:
        """Under segments the program maps all of ELRANGE as soon as it is created."""
        for i in range(2):
            self.take(next(self.named("mmap", i=i)), {"prot": 0})

    def run(self, n_steps: int) -> None:
        opened = list(self.named("open"))
        self.random.shuffle(opened)
        for move in opened:
            if self.take(move, {}):
                break
        else:
            return
        while len(self.trace["steps"]) < n_steps:
            r = self.random.random()
            if r < 0.04 and not self.state["process0.code"] and self.state["enclave.created"]:
                self.enter()
            move = self.random.choice(self.system.moves)
            if self.random.random() < 0.1 and not self.state["enclave.created"]:
                move = next(self.named("create"))
            args = {name: self.random.randrange(1 << width) for name, width in move.args}
            if args.get("source", 0) >= len(SOURCES) or args.get("source", 0) in NOEXEC:
                continue
            # Foreign memory can be protected and moved, too, which is not the world's business.
            # Who touches an absent page from outside gets a signal and no page.
            if move.name in (
                "entry",
                "code",
                "foreign",
                "touch",
            ) or self.random.random() < 0.5 * (move.name in ("munmap", "mremap")):
                continue
            if self.segments and move.name in ("mmap", "munmap", "mremap"):
                continue
            if move.name == "init" and self.random.random() < 0.7:
                continue
            if move.name == "eaccept" and self.state[f"page{move.meta['i']}.pt"] == PT_TCS:
                continue  # of a TCS the content counts, too
            inside = move.name in ("write", "emodpe", "eaccept", "eacceptcopy")
            if inside and not self.state[f"page{move.meta['i']}.present"]:
                continue  # the access that fails adds a page, which is the world's step "touch"
            # The world lets any mapping be read, as x86 may; the program reads to touch a page.
            reads = move.name in ("touch", "emodpe", "eaccept", "eacceptcopy")
            if reads and not (self.state[f"vma0_{move.meta['i']}.prot"] & 1 and self.sgx2):
                continue
            if self.take(move, args):
                if move.name == "create" and self.segments:
                    self.reserve()
            elif self.tries(move, args) and self.random.random() < 0.4:
                self.add(move, args, False)


@pytest.mark.parametrize("text", DESIGNS)
def test_a_real_process_goes_where_the_model_goes(
    text: str, softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    refused = 0
    for seed, held in enumerate(HELD):
        walk = Walk(text, held, seed)
        walk.run(60)
        cil = tmp_path / f"{seed}.cil"
        cil.write_text(policy_of(walk.trace))
        program = guest("orders")
        orders = orders_of(walk.trace, str(program))
        done = softsgx(
            "--design", text, "--selinux", "minimal", "--selinux", cil, f"--context={domain(0)}",
            "--", program, stdin="\n".join(o.text for o in orders) + "\n",
            env={"SGX_DEVICE": make_design(text).paths[0]},
        )  # fmt: skip
        answers = done.stdout.splitlines()
        assert len(answers) == len(orders), done.stderr
        told: list[str] = []
        both = list(zip(orders, answers, strict=True))
        for number, possible in enumerate(walk.possible, 1):
            mine = [(o, a) for o, a in both if o.step == number]
            if not mine:
                continue  # under segments the device is mapped at once, as a whole
            told += [f"{order.text} -> {answer}" for order, answer in mine]
            words = walk.trace["steps"][number - 1]["words"]
            story = "\n".join([*told, f"the model says {possible}: {words}", done.stderr])
            happened = all(o.answer in (None, answer) for o, answer in mine)
            assert happened == possible, story
            refused += not possible
    assert refused > 20


# -- AppArmor, of two profiles -----------------------------------------------------------------

PAIRS = [(1, 5), (5, 1), (3, 7), (7, 3), (5, 5), (7, 5), (3, 1)]


@needs_apparmor
@pytest.mark.parametrize("held", PAIRS, ids=[f"{a}-{b}" for a, b in PAIRS])
def test_apparmor_remembers_whom_it_asked_as_the_model_does(
    held: tuple[int, int], softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    """One file, two profiles: who maps what after whom decides which of them is looked at."""
    world = World(make_design("linux-6.0"), 2, 2, "apparmor")
    moves = {(m.name, *m.meta.values()): m for m in build_moves(world)}
    system = System(world, {"may0.device": held[0], "may1.device": held[1]})
    chance, outcomes = random.Random(10 * held[0] + held[1]), set()
    for _ in range(4):
        state = system.start({})
        steps: list[dict[str, Any]] = []
        possible: list[bool] = []
        tried = [
            ("open", 0, 3 if held[0] & 2 else 1), ("create", 0), ("add", 0, 0), ("add", 0, 1),
            *[("mmap", 0, chance.randrange(2), "MAP_SHARED") for _ in range(chance.randrange(3))],
            ("pass", 0, 1),
            *[("mmap", chance.randrange(2), chance.randrange(2), "MAP_SHARED") for _ in range(12)],
        ]  # fmt: skip
        for key in tried:
            move = moves[key]
            args = {"source": 0, "perm": 7} if key[0] == "add" else {}
            if key[0] == "mmap":
                fd_writes = state["enclave.fd_writes"]
                args = {"prot": chance.choice((1, 4, 5, 3, 7) if fd_writes else (1, 4, 5))}
            after = system.step(state, move, args)
            steps.append({"step": key[0], **move.meta, **args, "words": str(key)})
            possible.append(after is not None)
            state = after or state
        trace = {
            "design": "linux-6.0", "options": {}, "processes": 2, "steps": steps,
            "permissions": {"may0.device": held[0], "may1.device": held[1]},
        }  # fmt: skip
        profiles = tmp_path / "profiles"
        profiles.write_text(profiles_of(trace, "/", "/"))
        program = tmp_path / "orders"
        for copy in (program, Path(f"{program}-1")):
            shutil.copy(guest("orders"), copy)
        orders = orders_of(trace, str(program))
        done = softsgx(
            "--design=linux-6.0", f"--apparmor={profiles}:{profile(0)}",
            f"--profile={program}-1={profile(1)}", "--", program,
            stdin="\n".join(o.text for o in orders) + "\n",
            env={"SGX_DEVICE": "/dev/sgx_enclave"},
        )  # fmt: skip
        told = []
        for order, answer in zip(orders, done.stdout.splitlines(), strict=True):
            told.append(f"{order.text} -> {answer}")
            # The descriptor is asked about when it is used first: by an ioctl.
            if " mmap " in order.text or " ioctl " in order.text:
                assert (order.answer == answer) == possible[order.step - 1], "\n".join(told)
                outcomes.add(answer)
    assert {"0", "EACCES"} <= outcomes or held[0] == held[1]
