"""A signal that ends a command: it ends by it, silently, and nothing of what it began goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checker.needs import needs_abc
from tests.command import PATIENCE

# Ctrl-C while a module is imported, in a place where an exception is printed and forgotten.
_AMID = """
import os, sys
class Here:
    def __del__(self):
        os.kill(os.getpid(), 2)
class Finder:
    def find_spec(self, name, path, target=None):
        if name == wanted:
            Here()
sys.meta_path.insert(0, Finder())
wanted = sys.argv[1]
sys.argv = ["softsgx", *sys.argv[2:]]
from softsgx.cli.entry import main
sys.exit(main())
"""
_TRACE = {
    "design": "linux-5.11",
    "options": {},
    "property": "no-wx",
    "lsm": "none",
    "actors": [],
    "pages": 1,
    "processes": 1,
    "permissions": {},
    "steps": [{"step": "open", "p": 0, "fmode": 3, "words": "process 0 opens the device"}],
}
_SPEC = """
timeout = 3600
[[program]]
argv = ["{program}"]
"""
_SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize(
    ("module", "args"),
    [
        ("softsgx.cli.run", ("run", "--", "true")),
        ("softsgx.supervisor.programs.launch", ("run", "--", "true")),
        ("softsgx.cli.main", ("designs",)),
        ("softsgx.cli.designs", ("designs",)),
        ("softsgx.checker.pool.result", ("check", "v20")),
        ("softsgx.cli.explain", ("explain", os.devnull)),
        ("softsgx.sweeps.spec", ("sweep", "s.toml")),
    ],
)
def test_while_a_command_begins(module: str, args: tuple[str, ...], tmp_path: Path) -> None:
    """SOFTSGX_DEBUG: each module is looked for."""
    done = subprocess.run(
        [sys.executable, "-c", _AMID, module, *args],
        env={**os.environ, "SOFTSGX_DEBUG": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_one_that_comes_ignored_stays_ignored(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", _AMID,
         "softsgx.cli.designs", "designs"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "linux-6.12" in done.stdout


@pytest.mark.parametrize("number", _SIGNALS)
@pytest.mark.parametrize("command", ["sweep", "explore", "replay"])
def test_what_runs_programs(command: str, number: signal.Signals, tmp_path: Path) -> None:
    """The program ends with it, though it is in a session of its own, and no file stays."""
    program, fifo, files = (tmp_path / name for name in ("program", "fifo", "files"))
    os.mkfifo(fifo)
    files.mkdir()
    program.write_text(f"#!/bin/sh\nexec 3>{fifo}\necho here >&3\nexec tail -f /dev/null\n")
    program.chmod(0o755)
    (tmp_path / "spec.toml").write_text(_SPEC.format(program=program))
    (tmp_path / "trace.json").write_text(json.dumps(_TRACE))
    args = {
        "sweep": ("spec.toml",),
        "explore": ("--timeout", "3600", "--", program),
        "replay": ("--orders", program, "trace.json"),
    }[command]
    _ended(number, fifo, files, command, *args, cwd=tmp_path)


@needs_abc
@pytest.mark.parametrize("number", _SIGNALS)
@pytest.mark.parametrize("args", [("ioc-mprotect",), ("ioc-mprotect", "maxperm", "--jobs=2")])
def test_repair(args: tuple[str, ...], number: signal.Signals, tmp_path: Path) -> None:
    fifo, files, solver = (tmp_path / name for name in ("fifo", "files", "abc"))
    os.mkfifo(fifo)
    files.mkdir()
    solver.write_text(f"#!/bin/sh\nexec 3>{fifo}\necho here >&3\nexec tail -f /dev/null\n")
    solver.chmod(0o755)
    _ended(number, fifo, files, "repair", *args, cwd=tmp_path, SOFTSGX_ABC=str(solver))


def _ended(
    number: signal.Signals, fifo: Path, files: Path, *args: str | Path, cwd: Path, **env: str
) -> None:
    """Run a command, and send it a signal once who writes "here" into the FIFO is there."""
    with subprocess.Popen(
        [sys.executable, "-m", "softsgx", *args],
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(files), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        with fifo.open() as pipe:
            assert pipe.readline() == "here\n"
            process.send_signal(number)
            assert not pipe.read().replace("here\n", "")  # up to the end of all that hold it
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (-number, "", "")
    assert not list(files.iterdir())
