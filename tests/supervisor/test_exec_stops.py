"""What exec puts into a process: few stops, and nothing of it in what the program starts with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.host import pathcode
from softsgx.uapi import syscalls as nr
from tests.cache import ROOT
from tests.command import PATIENCE

_SOURCE = ROOT / "tests" / "guests" / "lib" / "atentry.S"
_PATHS = frozenset(f"call {n}" for n in (*pathcode.CALLS, nr.NR_openat, nr.NR_open))
_EXECS = "i=0; while [ $i -lt {} ]; do /bin/true; i=$((i+1)); done"


def _run(*args: str | Path, cache: Path | None = None) -> bytes:
    command = [sys.executable, "-m", "tests.supervisor.execs", *args]
    env = dict(os.environ) | ({"XDG_CACHE_HOME": str(cache)} if cache else {})
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, check=True, timeout=PATIENCE, env=env
    )
    return done.stdout


def _counts(*args: str | Path, cache: Path | None = None) -> dict[str, int]:
    found: dict[str, int] = json.loads(_run(*args, cache=cache).splitlines()[-1])
    return found


_HANDLES = """
import faulthandler, sys, threading
many, alone = int(sys.argv[1]), len(sys.argv) == 2
if not alone:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
for _ in range(many):
    faulthandler.enable()
    faulthandler.disable()
"""


def test_who_sets_a_handler_stops_once_if_it_is_alone() -> None:
    """Else another thread's may have been taken from it: that is seen at the end of the call."""
    shown = [sys.executable, "-S", "-c", _HANDLES]
    ends = f"{5 | 0x80}"  # of calls that go on to their end
    counts, more = _counts(*shown, "200"), _counts(*shown, "200", "threads")
    assert counts[f"call {nr.NR_rt_sigaction}"] >= 400
    assert counts.get(ends, 0) < 20
    assert more[ends] >= 600


_HANDLED = """
import os, signal, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.signal(signal.SIGSEGV, lambda *_: None)
for _ in range(200):
    os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_a_signal_that_is_handled_stops_its_thread_once_and_no_other() -> None:
    counts = _counts(sys.executable, "-S", "-c", _HANDLED)
    stopped_too = f"{128 << 8 | 5}"  # PTRACE_EVENT_STOP: a thread that was interrupted
    assert counts["11"] == 200
    assert max(counts.get("5", 0), counts.get(stopped_too, 0)) < 20


def _paths(counts: dict[str, int]) -> int:
    return sum(counts.get(name, 0) for name in _PATHS)


@pytest.fixture(scope="module")
def entered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose interpreter shows what exec left."""
    folder = tmp_path_factory.mktemp("entered")
    interpreter, program, source = folder / "interpreter", folder / "program", folder / "main.c"
    source.write_text("int main(void) { return 0; }\n")
    flags = ["-nostdlib", "-shared", "-fPIC", "-Wl,-e,_start"]
    subprocess.run(["gcc", *flags, _SOURCE, "-o", interpreter], check=True)
    linker = f"-Wl,--dynamic-linker={interpreter}"
    subprocess.run(["gcc", linker, source, "-o", program], check=True)
    return program


def _block_and_exec(program: Path) -> list[str | Path]:
    """It blocks SIGUSR1, has it sent to itself, and becomes the program."""
    code = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {10, 5})\n"
        "os.kill(os.getpid(), 10)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", code, program]


@pytest.mark.parametrize("how", [[], ["--crowded"], ["--exact"]], ids=["usual", "crowded", "exact"])
def test_the_first_instruction_finds_what_exec_left(entered: Path, how: list[str]) -> None:
    command = _block_and_exec(entered)
    bare = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    ours = _run(*how, *command)[: len(bare)]
    assert len(bare) == 1024 + 17 * 8
    assert ours == bare
    assert int.from_bytes(bare[1024:1032], "little") == 1 << 9 | 1 << 4


def test_memory_that_is_taken_is_looked_for_elsewhere() -> None:
    shown = ["/bin/sh", "-c", "ls -d /"]
    assert _run("--crowded", *shown).splitlines()[0] == b"/"
    usual, crowded = _counts(*shown), _counts("--crowded", *shown)
    assert crowded["133"] > usual.get("133", 0)  # 0x85: entries and exits of calls made for it


@pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())
def test_a_program_that_has_run_before_stops_for_few_of_its_paths(tmp_path: Path) -> None:
    def paths(execs: int) -> int:
        cache = tmp_path / str(execs)
        return _paths(_counts("/bin/sh", "-c", _EXECS.format(execs), cache=cache))

    first, more = paths(3), paths(13)
    assert more - first < _paths(_counts("--exact", "/bin/sh", "-c", _EXECS.format(10))) / 2


@pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())
def test_what_a_run_has_learned_the_next_one_knows(tmp_path: Path) -> None:
    counts = [_paths(_counts("/bin/ls", "-l", "/", cache=tmp_path)) for _ in range(4)]
    assert counts[-1] < counts[0] / 2
    (kept,) = tmp_path.rglob("paths")
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")  # damaged: learned anew
    assert _paths(_counts("/bin/ls", "-l", "/", cache=tmp_path)) > counts[-1]


@pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())
def test_who_reads_code_to_translate_it_finds_it_as_it_is(tmp_path: Path) -> None:
    """As valgrind's tools do, who are told by their folder: all their calls on paths stop."""
    for _ in range(3):
        _counts("/bin/ls", "-l", "/", cache=tmp_path)
    translator = tmp_path / "valgrind" / "ls"
    translator.parent.mkdir()
    shutil.copy("/bin/ls", translator)
    usual = _paths(_counts(translator, "-l", "/", cache=tmp_path))
    assert usual == _paths(_counts("--exact", translator, "-l", "/", cache=tmp_path))


def test_the_kernels_own_vdso_is_as_it_was() -> None:
    code = (
        "line = next(x for x in open('/proc/self/maps') if '[vdso]' in x)\n"
        "start, end = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "mem = open('/proc/self/mem', 'rb', 0); mem.seek(start)\n"
        "print(mem.read(end - start).hex())\n"
    )
    bare = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert _run("--exact", sys.executable, "-c", code).splitlines()[0] == bare.strip()


def test_what_filters_from_before_an_exec_let_pass_still_does(guest: Callable[[str], Path]) -> None:
    """The enclave of the next program lies where that of this one did, or where none has been."""
    again = guest("again")
    _counts(again, "2")  # the first one learns
    there, elsewhere = _counts(again, "2"), _counts(again, "2", "1")
    calls = [f"call {n}" for n in (nr.NR_mmap, nr.NR_madvise, nr.NR_mprotect, nr.NR_prctl)]
    assert there[f"call {nr.NR_mmap}"] > 0
    assert [there.get(name, 0) for name in calls] == [elsewhere.get(name, 0) for name in calls]
