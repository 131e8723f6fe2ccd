"""The completions and the manual page: of the help texts, in real shells, by real man readers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.cli.completion import SCRIPTS, may_stand
from softsgx.cli.main import COMMANDS, main
from softsgx.cli.manual import PLACES, manual, write_all
from softsgx.cli.texts import options_of
from softsgx.designs.registry import DESIGNS
from tests.command import PATIENCE

_BREAKS = "\"'><=;|&(:"
_PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"


def _in(shell: str, code: str, cwd: Path) -> list[str]:
    """What a real shell prints; skipped where there is none."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here; to run it: apt-get install {shell}")
    flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [program, *flags, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE,
        env=os.environ | {"PATH": _PATH, "HOME": str(cwd)}, check=False,
    )  # fmt: skip
    assert done.stderr == "", done.stderr
    return done.stdout.splitlines()


def _words(*words: str) -> list[str]:
    return [text for text, _ in may_stand(list(words)) if text.startswith(words[-1])]


def test_what_may_stand_where() -> None:
    assert _words("re") == ["report", "repair", "replay"]
    assert _words("help", "") == list(COMMANDS)
    assert _words("run", "--design", "linux-6") == ["linux-6.12", "linux-6.0"]
    assert _words("run", "--design=linux-5") == ["--design=linux-5.11"]
    assert _words("check", "v2") == ["v20"]
    assert _words("check", "segments:") == [
        *(f"segments:{name}=" for name in DESIGNS["segments"].options),
        *(["segments:repaired"] if DESIGNS["segments"].repaired else []),
    ]
    option, values = next(iter(DESIGNS["ioc-mprotect"].options.items()))
    start = f"ioc-mprotect:{option}="
    assert _words("run", "--design", start) == [start + value for value in values]
    assert _words("check", "--engine", "") == ["auto", "abc", "z3", "explicit"]
    assert "noexec" in _words("check", "--property", "")
    assert _words("attest", "") == [
        "root", "collateral", "verify", "pccs", "quote", "target-info", "platform",
    ]  # fmt: skip
    for words in (["show", ""], ["run", "--record", "x"], ["run", "--record=x"], ["explain", "x"]):
        assert [text for text, _ in may_stand(words)] == [":files"]
    assert list(may_stand(["doctor", ""])) == []
    assert list(may_stand(["nothing", ""])) == []


def test_behind_the_program_its_own_completion_goes_on() -> None:
    for words, place in (
        (["run", "gi"], 2),
        (["run", "--epc", "64M", "git", "sta"], 4),
        (["run", "-v", "--", "git", "--ver"], 4),
        (["run", "--epc=64M", "git", "--ver"], 3),
        (["explore", "--times", "3", "-q", "git", ""], 5),
    ):
        assert list(may_stand(words)) == [(":program", str(place))]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_offered(name: str) -> None:
    if name in ("help", "completion"):
        return
    want = {each for option in options_of(name) for each in option.names}
    assert set(_words(name, "-")) >= want


def test_a_loaded_design_is_offered(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from softsgx.designs.linux import Linux60\n"
        "class Own(Linux60):\n"
        '    """``own``."""\n'
        '    name, title, options = "own-one", "Mine", {"a": ("b", "c")}\n'
    )
    code = "import sys; from softsgx.cli.main import main; sys.exit(main(sys.argv[1:]))"
    for words in (
        ("run", "--load", "own.py", "--design", "own"), ("designs", "--load=own.py", "own"),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code, "completion", "--words", *words], cwd=tmp_path,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == "own-one\tMine\nown-one:\tMine\n"


def _bash(lines: list[tuple[str, list[str]]]) -> str:
    """A script that asks for the completion of lines as readline would."""
    code = 'eval "$(softsgx completion bash)"\ncompopt() { echo "compopt $*"; }\n'
    code += '_command_offset() { echo "program ${COMP_WORDS[*]:$1}"; }\n'
    code += f"COMP_WORDBREAKS=$'{_BREAKS.replace(chr(39), chr(92) + chr(39))}'\n"
    for line, words in lines:
        quoted = " ".join(f"'{word}'" for word in words)
        code += f"COMP_LINE='{line}' COMP_POINT={len(line)} COMP_CWORD={len(words) - 1}\n"
        code += f"COMP_WORDS=({quoted})\n_softsgx\n"
        code += 'printf "%s\\n" "${COMPREPLY[@]}"\n'
    return code


def test_in_bash(tmp_path: Path) -> None:
    said = _in("bash", _bash([
        ("softsgx rep", ["softsgx", "rep"]),
        ("softsgx run --design ioc-mprotect:open=rd",
         ["softsgx", "run", "--design", "ioc-mprotect", ":", "open", "=", "rd"]),
        ("softsgx run --record=x", ["softsgx", "run", "--record", "=", "x"]),
        ("softsgx run --design=a:b=c -- git --ver",
         ["softsgx", "run", "--design", "=", "a", ":", "b", "=", "c", "--", "git", "--ver"]),
        ("softsgx designs segments:el", ["softsgx", "designs", "segments", ":", "el"]),
    ]), tmp_path)  # fmt: skip
    assert [line for line in said if line] == [
        "report", "repair", "replay", "rdwr", "rdonly", "compopt -o default", "compopt -o default",
        "program git --ver", "compopt -o nospace", "elrange=",
    ]  # fmt: skip


def test_in_zsh(tmp_path: Path) -> None:
    code = (
        "autoload -Uz compinit; compinit -u -d zcompdump\n"
        'eval "$(softsgx completion zsh)"\n'
        "compset() { : }; compadd() { print -r -- ${@[-1]} }; _files() { print files }\n"
        "_normal() { print program $words }\n"
        'ask() { words=("$@"); CURRENT=$#; _softsgx }\n'
        "ask softsgx rep\nask softsgx run --design ioc-mprotect:open=\n"
        "ask softsgx run --record=x\nask softsgx run -v -- git --ver\n"
        "print $_comps[softsgx]\n"
    )
    assert _in("zsh", code, tmp_path) == [
        "report", "repair", "replay", "ioc-mprotect:open=rdwr", "ioc-mprotect:open=rdonly",
        "files", "program git --ver", "_softsgx",
    ]  # fmt: skip


def test_in_fish(tmp_path: Path) -> None:
    (tmp_path / "recorded").write_text("")
    code = (
        "softsgx completion fish | source\n"
        "complete -c git -f -a 'of-git'\n"
        "for line in 'softsgx rep' 'softsgx run --design ioc-mprotect:open=' "
        "'softsgx run --record=rec' 'softsgx show rec' 'softsgx run -v -- git of'\n"
        "    complete -C $line\nend\n"
    )
    said = [line.partition("\t")[0] for line in _in("fish", code, tmp_path)]
    assert said == [
        "repair", "replay", "report", "ioc-mprotect:open=rdonly", "ioc-mprotect:open=rdwr",
        "--record=recorded", "recorded", "of-git",
    ]  # fmt: skip


def test_the_manual_page_says_all_that_the_help_says(tmp_path: Path) -> None:
    page = tmp_path / "softsgx.1"
    page.write_text(manual("1.2.3"))
    if (mandoc := shutil.which("mandoc")) is None:
        pytest.skip("no mandoc here; to run it: apt-get install mandoc")
    lint = subprocess.run(
        [mandoc, "-Tlint", "-Wwarning", page], capture_output=True, text=True, check=False
    )
    # Made of the sources, it has no date of its own.
    assert [line for line in lint.stdout.splitlines() if "missing date" not in line] == []
    shown = subprocess.run(
        [mandoc, "-Tutf8", "-Owidth=200", page], capture_output=True, text=True, check=True
    ).stdout
    text = re.sub(r".\x08", "", shown)
    assert "softsgx 1.2.3" in text
    parts = re.split(r"^   softsgx (\w+)$", text, flags=re.M)
    assert parts[1::2] == list(COMMANDS)
    for name, part in zip(parts[1::2], parts[2::2], strict=True):
        words = part.split()
        for option in options_of(name):
            for each in option.names if option.said != "this help" else ():
                assert {each, each + ","} & {*words}, (name, each)
            assert (
                " ".join(option.said.split()[:3]) in " ".join(words) or option.said == "this help"
            )


def test_the_files_of_a_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = write_all(tmp_path, "1.2.3")
    assert {str(path.relative_to(tmp_path)) for path in written} == set(PLACES.values())
    for shell in SCRIPTS:
        assert main(["completion", shell]) == 0
        assert (tmp_path / PLACES[shell]).read_text() == capsys.readouterr().out
