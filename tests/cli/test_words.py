"""What every command has in common: help, options, extra words, mistakes, ``--json``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softsgx.cli.main import COMMANDS, main, usage
from softsgx.cli.texts import help_of, options_of
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.device.carryout import CarryOut
from softsgx.errors import UsageError
from tests.cache import ROOT
from tests.command import Softsgx

Capture = pytest.CaptureFixture[str]

# What prints no table for people: why it has no --json.
_NO_JSON = {
    "run": "the program's output; --record is JSON",
    "report": "writes a page",
    "include": "prints one path",
    "completion": "prints a script",
    "help": "prints this text",
}
_WITH_PROGRAM = ("run", "explore")


def _mistake(args: list[str], capsys: Capture) -> str:
    """The one line that a mistake is told in."""
    assert main(args) == 2, args
    said = capsys.readouterr()
    assert said.out == "", args
    assert len(said.err.splitlines()) == 1, (args, said.err)
    assert said.err.startswith("softsgx: "), args
    return said.err.removeprefix("softsgx: ").rstrip("\n")


def test_every_module_of_a_command_is_told_of() -> None:
    folder = ROOT / "src" / "softsgx" / "cli"
    has_help = {
        p.stem
        for p in folder.glob("*.py")
        if re.search(r"^HELP = |^def parser\(", p.read_text(), re.M)
    }
    assert has_help == set(COMMANDS)
    readme = (ROOT / "README.md").read_text()
    table = set(re.findall(r"^\| `softsgx (\w+)", readme, re.M))
    assert table == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_in_each_way(name: str, capsys: Capture) -> None:
    if name != "help":
        assert main(["help", name]) == 0
        assert capsys.readouterr().out == help_of(name)
    for option in ("--help", "-h"):
        assert main([name, option]) == 0
        said = capsys.readouterr()
        assert (said.out, said.err) == (help_of(name), "")
    assert said.out.startswith(f"usage: softsgx {name}")


def test_help_alone_names_every_command(capsys: Capture) -> None:
    for args in (["help"], ["--help"], ["-h"]):
        assert main(args) == 0
        assert capsys.readouterr().out == usage() + "\n"
    for name, (takes, said) in COMMANDS.items():
        assert re.search(rf"softsgx {name} *{re.escape(takes)} +{re.escape(said)}$", usage(), re.M)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["help", "nothing"], "no command 'nothing'"),
        (["help", "run", "show"], "help run takes no argument 'show'"),
        (["--version", "x"], "--version takes no argument 'x'"),
        (["--help", "x"], "--help takes no argument 'x'"),
        (["completion", "a\nb\x1b"], r"and no 'a\nb\x1b'"),
        (["show", "a\nb\x1b"], r"a\nb\x1b: No such file"),
        (["completion"], "completion needs one of bash, zsh and fish"),
        (["completion", "tcsh"], "completion knows bash, zsh, fish, and no 'tcsh'"),
        (["attest"], "attest needs one of root, collateral"),
        (["policy", "--te", "--json", "x"], "policy takes one of --te, --compile and --json"),
        (["policy", "--name", "x", "y"], "--name is of --te"),
        (["designs", "--json=yes"], "--json takes no value"),
        (["sweep", "--jobs", "0", "x.toml"], "--jobs 0: a number from 1 to 9999"),
        (["explore", "--times", "many", "true"], "--times many: a number from 1 on"),
        (["explore", "--epc"], "--epc needs a value"),
        (["check", "--html"], "expected one argument; see 'softsgx check --help'"),
    ],
)
def test_mistakes(args: list[str], said: str, capsys: Capture) -> None:
    assert said in _mistake(args, capsys)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_and_a_missing_value(name: str, capsys: Capture) -> None:
    if name == "help":
        assert "no command '--bogus'" in _mistake([name, "--bogus"], capsys)
        return
    sub = ["verify"] if name == "attest" else []
    assert "--bogus" in _mistake([name, *sub, "--bogus"], capsys)
    for option in options_of(name):
        if not option.value or option.value.startswith("["):
            continue
        if name == "attest" and option.names[-1] not in ("--root", "--collateral", "--now"):
            continue
        for each in option.names:
            said = _mistake([name, *sub, each], capsys)
            assert re.search(rf"{option.names[0]} needs a value|expected one argument", said), said


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in _WITH_PROGRAM])
def test_a_word_too_many(name: str, capsys: Capture) -> None:
    if name == "inspect":
        return  # any number is right
    if name == "report":
        assert "write: softsgx report" in _mistake([name, "a", "b"], capsys)  # any number, too
        return
    if name == "sign":
        said = _mistake([name, "--key", "k", "-o", "s", "a", "b"], capsys)
        assert "sign takes one file" in said
        return
    said = _mistake([name, *(["root"] if name == "attest" else []), "/no/a", "/no/b"], capsys)
    assert "'/no/" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_the_help_is_one_and_no_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parsers against the help texts, in both directions."""
    told = {each for option in options_of(name) for each in option.names} - {"-h", "--help"}
    assert told == _taken(name, monkeypatch)


def _taken(name: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The options that a command's parser takes."""
    import importlib

    module = importlib.import_module(f"softsgx.cli.{name}")
    if name in ("check", "repair"):
        return {o for a in module.parser()._actions for o in a.option_strings} - {"-h", "--help"}
    if name == "run":
        return _taken_by_run()
    if name == "help":
        return set()
    found: set[str] = set()

    class Seen(Exception):
        pass

    def given(*args: Any, **more: Any) -> None:
        bound = (
            dict(
                zip(
                    ("command", "text", "args", "flags", "takes", "words", "what", "short"),
                    args,
                    strict=False,
                )
            )
            | more
        )
        for key in ("flags", "takes", "short"):
            found.update(bound.get(key) or ())
        raise Seen

    monkeypatch.setattr(module, "given", given)
    for sub in module.SUBCOMMANDS if name == "attest" else (None,):
        with pytest.raises(Seen):
            getattr(module, name)([sub] if sub else [])
    return found


def _taken_by_run() -> set[str]:
    from softsgx.cli import run

    words = set(re.findall(r'"(--?[a-z][a-z-]*)"', Path(run.__file__).read_text()))
    words |= {f"--{name}" for name in run._LSM}
    taken = set()
    for word in words - {"-h", "--help"}:
        try:
            chosen, _ = run.parse_options([word, "x"])
        except UsageError:
            continue
        assert chosen
        taken.add(word)
    return taken


@pytest.mark.parametrize("name", COMMANDS)
def test_a_table_for_people_is_there_for_programs(name: str) -> None:
    options = {each for option in options_of(name) for each in option.names}
    assert ("--json" in options) == (name not in _NO_JSON)


def test_json_of_the_commands(
    softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path, capsys: Capture
) -> None:
    record = tmp_path / "run.jsonl"
    confined = ("--selinux", "minimal", "--context", "bystander_t", "--permissive")
    softsgx(*confined, "--record", record, "--", guest("intel_like"))

    def data(*args: str | Path, status: int = 0) -> Any:
        assert main([*map(str, args)]) == status
        return json.loads(capsys.readouterr().out)

    questions = data("explain", "--json", "--denied", record)
    assert all(q["denied"] and q["enforced"] is False for q in questions)
    assert {"hook", "subject", "target", "tclass", "asked", "rule", "why"} <= questions[0].keys()
    assert any("missing: allow bystander_t" in line for q in questions for line in q["why"])
    lacks = data("policy", "--json", record)
    (rule,) = [r for r in lacks["allow"] if r["target"] == "sgx_enclave_device_t"]
    assert rule == {
        "source": "bystander_t", "target": "sgx_enclave_device_t", "tclass": "chr_file",
        "perms": ["execute", "ioctl", "map", "open", "read", "write"],
    }  # fmt: skip
    doctor = data("doctor", "--json")
    assert doctor["can_run"] is True
    assert {check["state"] for check in doctor["checks"]} <= {"ok", "no"}
    platform = data("attest", "platform", "--json")
    assert len(bytes.fromhex(platform["fmspc"])) == 6
    listed = data("check", "--list", "--json")
    assert "noexec" in [p["name"] for p in listed]


def test_nothing_to_carry_out_is_told(softsgx: Softsgx, guest: Callable[[str], Path]) -> None:
    hint = "softsgx: --carry-out: there is nothing to carry out: "
    done = softsgx("--carry-out", "--design", "linux-6.0", "--", guest("intel_like"))
    assert done.stderr == f"{hint}the calls of a loader for Linux are those of linux-6.0\n"
    assert "ok ecall" in done.stdout
    assert softsgx("-q", "--carry-out", "--", "/bin/true").stderr == ""
    assert softsgx("--carry-out", "--design", "segments", "--", "/bin/true").stderr == ""
    idle = {name for name in DESIGNS if CarryOut.is_idle(make_design(name))}
    assert idle == {name for name in DESIGNS if name.startswith("linux")} | {
        "safe-to-execute", "source-vma", "ema",
    }  # fmt: skip
