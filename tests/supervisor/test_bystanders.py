"""Usual stops that compiled code deals with: the oracle is Python, and no softsgx."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.host import bystanders
from tests.cache import ROOT
from tests.command import PATIENCE, Softsgx
from tests.supervisor.test_again import _queries
from tests.supervisor.test_cpuid_stops import _FAULTS
from tests.supervisor.test_guests import Guest

pytestmark = pytest.mark.skipif(
    not bystanders.available(), reason="bystanders.c is not built: hatch_build.py"
)
_SHOW = [sys.executable, "-m", "tests.supervisor.bystanders"]


# A program with a thread execs what is prepared again. A process whose first thread is no more has
# a CPUID that stops.
_FOUND = "..[tde({b.i.}.).][..e.].", r"(m/tc.\.)"


def _shown(cache: Path, program: Path, operations: str, *how: str) -> tuple[str, list[str], int]:
    """What it prints, what was known of it, and how many stops Python had."""
    done = subprocess.run(
        ["setarch", "-R", *_SHOW, *how, program, operations],
        cwd=ROOT, capture_output=True, check=False, timeout=PATIENCE, text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    assert not done.stderr
    printed, *known, stops = done.stdout.splitlines()
    return f"{printed}{done.returncode}", known, int(stops)


_CLOSES = {"(": ")", "[": "]", "{": "}", "<": ">", "/": "\\"}


def _operations(
    chance: random.Random, depth: int = 0, within: str = "", *, ends: bool = False
) -> str:
    """By chance; every process shows itself once at least. ends: it may end without a word."""
    made = ""
    for _ in range(chance.randrange(2, 7 - depth)):
        few, more = "sdibucchgfkltox..e", "sdibuccchgfklltmoozx.....(((([[[{<///eq"
        kind = chance.choice(few if depth > 2 else more)
        if kind in "<m" and within == "/":
            continue  # it may exec, or be joined
        if kind == "z" and within not in "(<":
            continue  # who made it hears of that: once or twice, and a while after vfork
        if kind in _CLOSES:
            ends &= kind != "<"  # it leaves children whose end nobody waits for
            inner = ends if kind == "/" else kind != "<"
            made += kind + _operations(chance, depth + 1, kind, ends=inner) + _CLOSES[kind]
        elif (kind not in "xqe" or ends) and (kind != "m" or within != "<"):
            made += kind
    return made + "."


def test_nothing_is_known_otherwise(guest: Guest, tmp_path: Path) -> None:
    if not shutil.which("setarch"):
        pytest.skip("no setarch")
    chance = random.Random(os.environ.get("SEED", "bystanders"))
    program, learned = guest("bystanders"), tmp_path / "learned"
    again = "[.c](.)" * 6  # what is worth while from the third exec on
    for _ in range(4):
        _shown(learned, program, again + "sdibut<.>{.}e.x", "--each")
    chosen = [*_FOUND, *(_operations(chance) for _ in range(24))]
    for n, operations in enumerate(again + each for each in chosen):
        caches = [shutil.copytree(learned, tmp_path / f"{how}{n}") for how in ("each", "few")]
        bare = subprocess.run([program, operations], capture_output=True, text=True, check=False)
        each, known, stops = _shown(caches[0], program, operations, "--each")
        few, as_well, fewer = _shown(caches[1], program, operations)
        assert each == f"{bare.stdout}{bare.returncode}", operations
        assert few == each, operations
        assert as_well == known, operations
        assert fewer < stops, operations


@pytest.mark.skipif(_FAULTS, reason="CPUID traps by itself here")
@pytest.mark.skipif(not _queries(), reason="Linux 6.11: PROCMAP_QUERY")
def test_a_cpuid_that_stops_is_python_s_a_few_times_only(guest: Guest, tmp_path: Path) -> None:
    program = guest("bystanders")
    for operations in ("[c]", "[hc]"):
        _shown(tmp_path, program, operations * 8)
        few, many = (_shown(tmp_path, program, operations * n) for n in (12, 36))
        assert many[2] < few[2] + 10, operations


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ("", "<>"),  # who waits for many children
        ("", "t"),
        ("l", "t"),
        ("", "/()\\"),
        ("(q)", "()"),  # one that was killed may have left a child that nobody tells of
        ("", "(t)"),
        ("", "(q)"),
    ],
)
def test_what_happens_often_is_none_of_python_s(
    guest: Guest, tmp_path: Path, first: str, again: str
) -> None:
    program = guest("bystanders")
    _shown(tmp_path, program, first + again)
    few, many = (_shown(tmp_path, program, first + again * n) for n in (12, 48))
    assert many[2] < few[2] + 10


_FROM_THE_FIRST = """
import os, sys
from softsgx.supervisor.loop import supervisor
from softsgx.supervisor.state.options import Options
supervisor._FEW_FORKS = 1
sys.exit(os.waitstatus_to_exitcode(supervisor.Supervisor(Options()).run(sys.argv[1:])))
"""


@pytest.mark.parametrize("name", ["timeouts", "interrupted", "unwanted"])
def test_signals_among_calls(guest: Guest, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FROM_THE_FIRST, guest(name)],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert not done.returncode, done.stdout + done.stderr


_COUNTED = """
import sys
from softsgx.supervisor.loop import bystanders, supervisor
from softsgx.supervisor.state.options import Options
told, row = [], bystanders._row
bystanders._row = lambda *args: told.append(None) or row(*args)
supervisor._FEW_FORKS = 1
supervisor.Supervisor(Options()).run(sys.argv[1:])
print(len(told))
"""
_THREADS = """
import threading
end = threading.Event()
threads = [threading.Thread(target=end.wait) for _ in range({})]
for thread in threads:
    thread.start()
end.set()
for thread in threads:
    thread.join()
"""
_PROCESSES = """
i=0
while [ $i -lt {} ]; do
    sleep 1000 & kids="$kids $!"; i=$((i+1))
done
kill $kids
wait
"""


@pytest.mark.parametrize(
    "program", [(sys.executable, "-S", "-c", _THREADS), ("/bin/sh", "-c", _PROCESSES)]
)
def test_what_is_told_of_one_does_not_grow_with_the_others(program: tuple[str, ...]) -> None:
    n = 400  # in a few of the waits each is told of all, by how stops of several come together
    done = subprocess.run(
        [sys.executable, "-c", _COUNTED, *program[:-1], program[-1].format(n)],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    assert int(done.stdout.splitlines()[-1]) < n * n // 4


_CONTINUED = """
import os, signal, threading
signal.signal(signal.SIGCONT, lambda *_: None)
for _ in range(40):
    r, w = os.pipe()
    thread = threading.Thread(target=os.read, args=(r, 1))
    thread.start()
    signal.pthread_kill(thread.ident, signal.SIGCONT)
    os.write(w, b".")
    thread.join()
print("joined")
"""


def test_a_thread_that_sigcont_stops_goes_on(softsgx: Softsgx) -> None:
    """It has no row, as a thread that is new has none: its stop was kept for its birth."""
    done = softsgx("--", sys.executable, "-c", _CONTINUED)
    assert done.stdout == "joined\n", done.stderr
