"""The command line: what users mistype, what this machine lacks, what scripts rely on."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.cli import main as cli
from softsgx.cli.run import parse_size
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.errors import InternalError, UsageError
from softsgx.law.rule import rules_of
from tests.command import PATIENCE, Softsgx

Guest = Callable[[str], Path]


def _one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit status 2, nothing on standard output, one line that names what is wrong."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("softsgx: ")
    for part in parts:
        assert part in line


def _elf(path: Path, bits: int, machine: int) -> Path:
    """The beginning of an ELF file, executable."""
    ident = b"\x7fELF" + bytes((bits // 32, 1, 1)) + bytes(9)
    path.write_bytes(ident + struct.pack("<HH", 2, machine) + bytes(44))
    path.chmod(0o755)
    return path


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, Path]:
    """Files that cannot be run, by what is wrong with them."""
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    plain.chmod(0o644)
    orphan = tmp_path / "orphan"
    orphan.write_text("#!/no/such/interpreter\n")
    orphan.chmod(0o755)
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x00\x01\x02\x03" * 8)
    garbage.chmod(0o755)
    return {
        "missing": tmp_path / "missing",
        "not executable": plain,
        "directory": tmp_path,
        "32-bit": _elf(tmp_path / "elf32", 32, 3),
        "arm": _elf(tmp_path / "arm", 64, 183),
        "orphan": orphan,
        "garbage": garbage,
    }


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such program"),
        ("not executable", "is not executable"),
        ("directory", "is a directory"),
        ("32-bit", "a 32-bit program"),
        ("arm", "not an x86-64 program"),
        ("orphan", "the interpreter that it names does not exist"),
        ("garbage", "Exec format error"),
    ],
)
def test_a_program_that_cannot_be_run(
    kind: str, message: str, programs: dict[str, Path], softsgx: Softsgx
) -> None:
    _one_line(softsgx("--", programs[kind]), str(programs[kind]), message)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--epc", "0"), ("--epc 0", "4 KiB")),
        (("--epc", "abc"), ("--epc abc", "not a size", "128M")),
        (("--epc", "12"), ("--epc 12", "whole pages")),
        (("--epc", "-4096"), ("--epc -4096", "not a size")),
        (("--epc", "1.5G"), ("--epc 1.5G", "not a size")),
        (("--epc", "9" * 5000), ("not a size",)),
        (("--epc", "512T"), ("--epc 512T",)),
        (("--epc=",), ("--epc ", "not a size")),
        (("--design", "linux-7"), ("linux-7", *DESIGNS)),
        (("--design", "linux-6.0:x=y"), ("no option 'x'",)),
        (("--design", "linux-6.0:x"), ("'x' is not OPTION=VALUE",)),
        (("--design", "ioc-mprotect:source=elsewhere"), ("vm_may, prot", "'elsewhere'")),
        (("--record", "/no/such/folder/file"), ("--record /no/such/folder/file", "No such file")),
        (("--record", "/"), ("--record /", "Is a directory")),
        (("--record", ""), ("--record", "No such file")),
        (("--bogus",), ("no option --bogus", "--help")),
        (("-x",), ("no option -x",)),
        (("--verbose=yes",), ("no option --verbose=yes",)),
    ],
)
def test_a_bad_option(options: tuple[str, ...], parts: tuple[str, ...], softsgx: Softsgx) -> None:
    _one_line(softsgx(*options, "--", "/bin/true"), *parts)


@pytest.mark.parametrize("option", ["--epc", "--design", "--record"])
def test_an_option_without_its_value(option: str, softsgx: Softsgx) -> None:
    _one_line(softsgx(option), f"{option} needs a value")


@pytest.mark.parametrize("args", [(), ("--",), ("-v",), ("--epc", "64M")])
def test_a_run_of_nothing(args: tuple[str, ...], softsgx: Softsgx) -> None:
    _one_line(softsgx(*args), "needs a program")


def test_a_mistake_begins_no_recording(tmp_path: Path, softsgx: Softsgx) -> None:
    _one_line(softsgx("--record", tmp_path / "r", "--", tmp_path / "missing"), "no such program")
    _one_line(softsgx("--record", tmp_path / "r", "--epc", "1", "--", "/bin/true"), "--epc")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("4k", 4096), ("64M", 64 << 20), ("1G", 1 << 30), ("1T", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("frobnicate",), "no command 'frobnicate'"),
        (("show",), "needs one recording"),
        (("show", "a", "b"), "show takes one recording, and no 'b'"),
        (("show", "/no/such/file"), "No such file"),
        (("show", "/"), "Is a directory"),
        (("show", "--xml", "a"), "no option --xml"),
        (("designs", "linux-7"), "no design 'linux-7'"),
        (("designs", "v20", "segments"), "one design"),
        (("designs", "-l"), "no option -l"),
        (("doctor", "now"), "doctor takes no argument 'now'"),
    ],
)
def test_bad_commands(args: tuple[str, ...], part: str, softsgx: Softsgx) -> None:
    _one_line(softsgx.command(*args), part)


@pytest.mark.parametrize("command", [(), ("run",), ("show",), ("designs",), ("doctor",)])
def test_help_is_an_answer_and_not_an_error(command: tuple[str, ...], softsgx: Softsgx) -> None:
    done = softsgx.command(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: softsgx {' '.join(command)}".rstrip())
    assert done.stdout == softsgx.command(*command, "-h").stdout


def test_no_command_is_answered_with_the_usage(softsgx: Softsgx) -> None:
    done = softsgx.command()
    assert (done.returncode, done.stdout) == (2, "")
    assert "softsgx run" in done.stderr


# -- bugs of our own -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [RuntimeError("two\nlines"), InternalError("it broke"), AssertionError()]
)
def test_a_bug_is_one_line_and_status_70(
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: list[str]) -> int:
        raise error

    monkeypatch.setattr("softsgx.cli.doctor.doctor", fail)
    monkeypatch.delenv("SOFTSGX_DEBUG", raising=False)
    assert cli.main(["doctor"]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("softsgx: ")
    assert "this is a bug in softsgx" in line
    monkeypatch.setenv("SOFTSGX_DEBUG", "1")
    assert cli.main(["doctor"]) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "in fail" in err


def test_a_mistake_of_the_user_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["designs", "nonsense"]) == 2
    assert "bug" not in capsys.readouterr().err


def test_output_that_nobody_reads_is_no_error(softsgx: Softsgx) -> None:
    command = f"{sys.executable} -m softsgx designs linux-6.0 | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout.splitlines()[0].startswith("linux-6.0: ")
    assert done.stderr == ""


# -- what scripts rely on --------------------------------------------------------------------


def test_a_script_with_an_interpreter_line(tmp_path: Path, softsgx: Softsgx) -> None:
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\nread line\necho "$1:$line"\nexit 3\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    done = softsgx("--", script, "an argument", stdin="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "an argument:typed\n", "")


def test_a_program_of_path_with_options_of_its_own(softsgx: Softsgx) -> None:
    done = softsgx("sh", "-c", 'echo "$0" "$@"', "-v", "--epc", "--")
    assert (done.returncode, done.stdout) == (0, "-v --epc --\n")


def test_death_by_a_signal_is_passed_on(softsgx: Softsgx, guest: Guest) -> None:
    for number in (1, 6, 9, 11, 15):
        assert softsgx("--", guest("plain"), "signal", str(number)).returncode == -number


@pytest.mark.parametrize("options", [("-v",), ("--record", "r"), ("-v", "--record", "r")])
def test_being_watched_changes_nothing_for_the_program(
    options: tuple[str, ...], softsgx: Softsgx, guest: Guest
) -> None:
    text = "line\n" * 5000
    done = softsgx(*options, "--", guest("plain"), "cat", stdin=text)
    assert (done.returncode, done.stdout) == (0, text)
    assert softsgx(*options, "--", guest("plain"), "signal", "6").returncode == -6


# -- designs ---------------------------------------------------------------------------------


def test_the_table_of_designs(softsgx: Softsgx) -> None:
    done = softsgx.command("designs")
    assert (done.returncode, done.stderr) == (0, "")
    for cls in DESIGNS.values():
        assert f"{cls.name} " in done.stdout
        assert cls.title in done.stdout
        for option, values in cls.options.items():
            assert f"{option}={'|'.join(values)}" in done.stdout
    facts = json.loads(softsgx.command("designs", "--json").stdout)
    assert [f["name"] for f in facts] == list(DESIGNS)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_rules_of_a_design(name: str, softsgx: Softsgx) -> None:
    done = softsgx.command("designs", name)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{name}: {DESIGNS[name].title}"
    design = make_design(name)
    facts = json.loads(softsgx.command("designs", "--json", name).stdout)
    assert {r["name"] for r in facts["rules"]} == set(rules_of(design))
    for rule in facts["rules"]:
        title = rule["name"] + (" (one page at a time)" if rule["each"] else "")
        at = lines.index(title)
        assert lines[at + 2] == f"  source: {rule['source']}"
        assert [line[4:] for line in lines[at + 3 : at + 3 + len(rule["lines"])]] == rule["lines"]


def test_a_terminal_without_set_signs_gets_escapes(softsgx: Softsgx) -> None:
    done = softsgx.command("designs", "linux-6.0", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "prot \\u2286 (page.max if page.present else RWX)" in done.stdout


def test_options_of_a_design_can_be_asked(softsgx: Softsgx) -> None:
    done = softsgx.command("designs", "ioc-mprotect:source=prot")
    assert "option source=prot (of vm_may, prot)" in done.stdout.splitlines()


# -- doctor ----------------------------------------------------------------------------------


def _doctor(softsgx: Softsgx, **env: str) -> tuple[int, dict[str, str]]:
    """The status, and the state (ok, missing, no) and text by what was tried."""
    done = softsgx.command("doctor", env=env)
    assert done.stderr == ""
    *lines, verdict = done.stdout.splitlines()
    assert verdict == ("softsgx can run programs here" if done.returncode == 0 else
                       "softsgx cannot run programs here")  # fmt: skip
    found = {}
    for line in lines:
        name, _, text = line[8:].partition(": ")
        found[name] = f"{line[:8].strip()} {text}"
    return done.returncode, found


def test_doctor_finds_nothing_missing_where_the_tests_run(softsgx: Softsgx) -> None:
    status, found = _doctor(softsgx)
    assert status == 0
    assert not [name for name, text in found.items() if text.startswith("missing")]
    assert len(found) >= 12
    assert found["a program that opens the device"].startswith("ok")


def test_doctor_tells_of_a_state_directory_that_cannot_be(softsgx: Softsgx) -> None:
    status, found = _doctor(softsgx, SOFTSGX_STATE_DIR="/dev/null/state")
    assert status == 1
    assert "missing /dev/null/state" in found["state directory"]
    assert "SOFTSGX_STATE_DIR" in found["state directory"]
    assert found["ptrace of a child"].startswith("ok")


def test_doctor_tells_of_ptrace_that_is_not_allowed(softsgx: Softsgx) -> None:
    """Under softsgx a process has a tracer, so nobody else can trace it."""
    done = softsgx("--", sys.executable, "-m", "softsgx", "doctor")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("missing ptrace of a child: ")]
    assert "traces this one and its children" in line
    assert any(line.startswith("ok      capstone") for line in lines)


def test_doctor_tells_of_memory_files_that_are_too_small(softsgx: Softsgx) -> None:
    script = f"ulimit -f 1000; trap '' XFSZ; exec {sys.executable} -m softsgx doctor"
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert any(line.startswith("missing memfd_create") for line in done.stdout.splitlines())


def test_doctor_leaves_nothing_running() -> None:
    command = [sys.executable, "-m", "softsgx", "doctor"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        process.communicate(timeout=PATIENCE)
        assert _processes(process.pid) == set()


def _processes(session: int) -> set[int]:
    found = set()
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getsid(int(name)) == session:
                found.add(int(name))
        except ProcessLookupError:
            continue
    return found


def test_the_errors_of_options_are_those_of_the_library() -> None:
    with pytest.raises(UsageError, match="whole pages"):
        parse_size("4097")
