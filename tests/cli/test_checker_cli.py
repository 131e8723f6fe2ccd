"""``softsgx check`` as a user meets it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from softsgx.checker.world.permissions import parse_permissions
from softsgx.cli.check import _variants
from softsgx.cli.load import load_file
from softsgx.cli.main import main
from softsgx.designs.registry import DESIGNS
from softsgx.errors import UsageError
from softsgx.report.progress import progress
from tests.checker.needs import needs_abc

SMALL = ["--pages", "1", "--processes", "1", "--jobs", "1"]


@needs_abc
def test_status_and_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = ["--property", "asked", "--property", "source-bound"]
    status = main(["check", "linux-6.0", *names, *SMALL, "--json", "--trace-dir", str(tmp_path)])
    results = json.loads(capsys.readouterr().out)
    assert status == 1
    assert [(r["design"], r["property"], r["verdict"]) for r in results] == [
        ("linux-6.0", "asked", "proved"), ("linux-6.0", "source-bound", "refuted"),
    ]  # fmt: skip
    keys = {"design", "options", "property", "verdict", "bound", "steps", "permissions", "method"}
    assert keys | {"seconds", "vacuous", "benign"} <= set(results[0])
    (written,) = tmp_path.iterdir()
    trace = json.loads(written.read_text())
    assert [s["words"] for s in trace["steps"]] == results[1]["steps"]
    assert main(["check", "linux-6.0", "--property", "asked", *SMALL]) == 0
    assert "proved" in capsys.readouterr().out


@needs_abc
def test_why_a_property_holds(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["check", "linux-6.12", "--property", "noexec", *SMALL, "--why"]
    assert main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("  why, for 1 page and 1 process (a smallest set):")
    assert lines[at + 1].startswith("    add_page: the source VMA has VM_MAYEXEC (Linux sgx_encl_")
    assert lines[at + 2] == "      without it: a trace of 6 steps"
    assert lines[at + 3].startswith("  benign-runs: ")
    main([*args, "--json"])
    (result,) = json.loads(capsys.readouterr().out)
    (one,) = result["because"]["rests"]
    assert (one["rule"], one["needed"], len(one["steps"])) == ("add_page", True, 6)
    args[3] = "source-bound"
    assert main(args) == 1
    assert "\n    add_page at step 3 (Linux sgx_encl_add_page()" in capsys.readouterr().out
    assert main([*args, "--engine", "explicit"]) == 2
    assert "--why asks a solver" in capsys.readouterr().err


@needs_abc
def test_permissions_that_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["check", "source-vma", "--property", "asked", *SMALL, "--json"]
    for held, verdict in (("0:none", "proved"), ("0:device=read;file=execute", "refuted")):
        main([*args, "--permissions", held])
        (result,) = json.loads(capsys.readouterr().out)
        assert result["verdict"] == verdict


def test_permissions_in_words() -> None:
    held = parse_permissions("1:device=read,execmod;segment-rx=write", 2)
    assert held["may1.device"] == 9
    assert held["may1.segment5"] == 2
    assert held["may1.process"] == 0
    for wrong in (
        "2:none",
        "device=read",
        "0:disk=read",
        "0:device=fly",
        "0:device",
        "0:device=read,read",
        "0:device=read;device=write",
    ):
        with pytest.raises(UsageError):
            parse_permissions(wrong, 2)


@pytest.mark.parametrize(
    "args",
    [["nosuch"], ["linux-6.0:x=y"], ["--property", "nosuch"], ["--pages", "0"], ["--pages", "x"],
     ["--frobnicate"], ["--permissions", "7:none"],
     ["--permissions", "0:none", "--permissions", "0:device=read"], ["--load", "/nonexistent.py"],
     ["--memory", "lots"], ["--jobs", "-1"]],
)  # fmt: skip
def test_bad_arguments(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *args]) == 2
    assert capsys.readouterr().err.startswith("softsgx: ")


@pytest.fixture
def registered() -> Iterator[None]:
    """Designs and properties of a test's own are gone after it."""
    from softsgx.checker.properties import PROPERTIES

    designs, properties = dict(DESIGNS), dict(PROPERTIES)
    yield
    DESIGNS.clear()
    DESIGNS.update(designs)
    PROPERTIES.clear()
    PROPERTIES.update(properties)


MINE = """\
from softsgx.checker.properties.base import prop
from softsgx.designs.linux import Linux60
from softsgx.law.rule import rule
class Mine(Linux60):
    name = 'mine'
@prop('opened', 'nobody opens the device', source='a test', unless='')
def conditions(world):
    yield world.now('enclave.opened')
"""


@needs_abc
@pytest.mark.usefixtures("registered")
def test_a_design_and_a_property_from_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    args = ["--load", str(file), "--property", "opened", *SMALL, "--json"]
    assert main(["check", *args]) == 1
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["design"], len(result["steps"])) == ("mine", 1)
    assert main(["check", "--load", str(file), "--list"]) == 0
    assert "opened\n    nobody opens the device\n    Source: a test\n" in capsys.readouterr().out


WRONG = {
    "def (": ":1: SyntaxError",
    "x = 1\n\x00": "source code string cannot contain null bytes",  # ValueError before 3.11.4
    "\n1 / 0": ":2: ZeroDivisionError",
    "import sys\nsys.exit('gone')": ":2: SystemExit: gone",
    "import nosuchmodule": ":1: ModuleNotFoundError",
    "x = 1": "no design in it",
    "from softsgx.designs.linux import Linux60\nclass Mine(Linux60): pass": "no design in it",
    MINE.replace("'mine'", "'v20'"): "there is a design 'v20' already",
    MINE.replace("'mine'", "'a:b'"): "'a:b' is no name",
    MINE.replace("'opened'", "'asked'"): ":6: there is a property 'asked' already",
    MINE + "class Two(Linux60):\n    name = 'mine'": "there is a design 'mine' already",
    MINE.replace("source='a test', ", ""): ":6: TypeError",
    MINE.replace("unless=''", "unless='nothing'"): "a World has no 'nothing'",
    MINE.replace("enclave.opened", "enclave.door"): ":8 (conditions): KeyError: 'enclave.door'",
    MINE + "    return 1 / 0": ":9 (conditions): ZeroDivisionError",
    MINE.replace("    yield", "    return"): "mine: opened: TypeError",
    MINE.replace(
        "    name = 'mine'\n",
        "    name = 'mine'\n    def __init__(self):\n        self.nothing.more()\n",
    ): ":7: design mine: AttributeError",
    MINE.replace(
        "    name = 'mine'\n",
        "    name = 'mine'\n    @rule('a mistake')\n    def init(self, k, at, r):\n"
        "        if at.enclave.created: at.enclave.initialized = 1\n",
    ): ":8 (init): TypeError: a rule branched on the state",
}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("text", "said"), WRONG.items(), ids=range(len(WRONG)))
def test_a_mistake_in_a_file_of_the_users_is_one_line(
    text: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from softsgx.checker.properties import PROPERTIES

    file = tmp_path / "mine.py"
    file.write_text(text)
    before = list(DESIGNS), list(PROPERTIES)
    properties = ["--property", "opened"] if "@prop('opened'" in text else []
    assert main(["check", "--load", str(file), *properties, *SMALL]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("softsgx: ")
    assert str(file) in line or "mine: opened" in line
    assert said in line
    assert captured.out == ""
    if line.startswith("softsgx: --load"):
        assert (list(DESIGNS), list(PROPERTIES)) == before


def test_a_file_that_cannot_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check", "--load", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"softsgx: --load {tmp_path}: Is a directory\n"


@pytest.mark.usefixtures("registered")
def test_a_file_is_run_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    assert load_file(str(file)) == load_file(str(file)) == ["mine"]


def test_the_list_of_properties(capsys: pytest.CaptureFixture[str]) -> None:
    from softsgx.checker.properties import PROPERTIES

    assert main(["check", "--list", "-v"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    flat = " ".join(out.split())
    at = -1
    for p in PROPERTIES.values():
        assert p.means
        assert f"{p.name} {p.words} Source: {p.source} {p.means}" in flat
        assert flat.index(p.words) > at
        at = flat.index(p.words)
    main(["check", "--list"])
    assert PROPERTIES["asked"].means.split(".")[0] not in " ".join(capsys.readouterr().out.split())


def test_variants_leave_repairs_alone() -> None:
    for name, design in DESIGNS.items():
        texts = _variants(name)
        count = 1
        for option, values in design.options.items():
            count *= 1 if option in design.repairs else len(values)
        assert len(set(texts)) == count
        assert not any(f"{repair}=" in text for text in texts for repair in design.repairs)
    assert len(_variants("segments")) > 2


# -- in a terminal ---------------------------------------------------------------------------


def _check(*args: str, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "softsgx", "check", *args]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, **more)


@needs_abc
def test_progress_is_on_a_terminal_and_leaves_the_output_alone() -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    args = ["v20", "--property", "asked", "--property", "no-wx", *SMALL, "--json"]
    with _check(*args, stderr=theirs, env=env) as process:
        os.close(theirs)
        drawn = b""
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            drawn += more
        assert process.stdout is not None
        results = json.load(process.stdout)
    os.close(ours)
    assert process.returncode == 0
    assert [r["property"] for r in results] == ["asked", "no-wx"]
    text = drawn.decode()
    assert "0/3" in text  # benign-runs, too
    assert "3/3" in text
    assert "v20 asked" in text


@needs_abc
def test_there_is_no_progress_elsewhere() -> None:
    args = ["v20", "--property", "asked", *SMALL, "--json"]
    with _check(*args, stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    assert err == ""
    assert len(json.loads(out)) == 1


def test_no_rich_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with progress(stream) as tell:
        tell(1, 2, [("v20", "asked")])
    assert "v20 asked" in stream.getvalue()
    monkeypatch.setitem(sys.modules, "rich.console", None)
    stream = Terminal()
    with progress(stream) as tell:
        tell(1, 2, [("v20", "asked")])
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, -2), (signal.SIGTERM, -15), (signal.SIGKILL, -9)]
)
def test_nothing_is_left_behind(number: signal.Signals, status: int, tmp_path: Path) -> None:
    """However it ends, no solver goes on (its end of the pipe is closed), and no file stays."""
    files = tmp_path / "files"
    files.mkdir()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    solver = tmp_path / "abc"
    solver.write_text(f"#!/bin/sh\nexec 3>{fifo}\necho here >&3\nexec tail -f /dev/null\n")
    solver.chmod(0o755)
    env = {**os.environ, "SOFTSGX_ABC": str(solver), "TMPDIR": str(files)}
    with _check("v20", "source-vma", "--jobs", "2", stderr=subprocess.PIPE, env=env) as process:
        with fifo.open() as pipe:
            assert pipe.readline() == "here\n"
            assert list(files.glob("softsgx-*/softsgx-*/x.aig"))
            process.send_signal(number)
            assert "here" not in pipe.read().replace("here\n", "", 1)  # up to its end
        out, err = process.communicate()
    assert process.returncode == status
    assert (out, err) == ("", "")
    assert not list(files.iterdir())
