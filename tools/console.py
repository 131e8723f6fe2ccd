"""Console sessions in a document: run, shown, and held against what the document says.

A block is ```` ```console ````; ``$ `` begins a command, ``> `` goes on with it, the rest is what
it prints. A comment ``<!-- file: NAME -->`` says that the block after it is a file. All that a
document has is run in one shell, in its order.

In what is shown addresses and process ids count as equal, ``…`` in a line stands for any text, and
a line of ``…`` alone for any lines.

    tools/console.py PAGE              run a page's commands here, and print them as they run
    tools/console.py --write PAGE      put what they print into the page, where it says otherwise
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["Session", "fits", "play", "sessions"]

_BLOCK = re.compile(
    r"^(?:<!-- file: (?P<file>\S+) -->\n+)?```(?P<kind>\w*)\n(?P<text>.*?)^```$"
    r"|^(?P<heading>##? [^\n]+)$",
    re.DOTALL | re.MULTILINE,
)
_MARK = "\x1e"
_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")


class Session:
    """A command of a document, and what the document says that it prints.

    heading: its section's. at: where in the document that stands.
    """

    def __init__(self, command: str, heading: str, at: int = 0) -> None:
        self.command, self.heading, self.at = command, heading, at
        self.shown: list[str] = []
        self.hidden = False  # a file of the document, which is no command of it


def sessions(text: str) -> list[Session]:
    """Every command of every console block of a document, and every file that it has."""
    found: list[Session] = []
    heading = ""
    for block in _BLOCK.finditer(text):
        if block["heading"]:
            heading = block["heading"].lstrip("# ")
        elif block["file"]:
            found.append(
                Session(f"cat > {block['file']} <<'{_MARK}'\n{block['text']}{_MARK}", heading)
            )
            found[-1].hidden = True
        elif block["kind"] == "console":
            at = block.start("text")
            for line in block["text"].splitlines(keepends=True):
                at += len(line)
                plain = line.removesuffix("\n")
                if plain.startswith("$ "):
                    found.append(Session(plain[2:], heading, at))
                elif plain.startswith("> ") and not found[-1].shown:
                    found[-1].command += "\n" + plain[2:]
                    found[-1].at = at
                elif found:  # a block may show output alone
                    found[-1].shown.append(plain)
    return found


def play(
    done: Sequence[Session], directory: Path, env: Mapping[str, str] | None = None
) -> Iterator[tuple[Session, str | None]]:
    """Run commands in one shell: each with None as it begins, then with each line it prints.

    The shell has this Python's programs in its PATH. Whatever still runs at the end is killed.
    """
    script = ["exec 2>&1 </dev/null", "set -o pipefail"]
    for number, session in enumerate(done):
        script.append(f"printf '\\n{_MARK}%d\\n' {number}\neval {shlex.quote(session.command)}")
    # A make of the page's is not a part of one that runs this.
    ours = {name: value for name, value in os.environ.items() if name not in _MAKE}
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    with subprocess.Popen(
        ["bash", "-c", "\n".join(script)], cwd=directory, stdout=subprocess.PIPE, text=True,
        env=ours | {"PATH": path} | dict(env or {}), start_new_session=True,
    ) as shell:  # fmt: skip
        assert shell.stdout is not None
        try:
            yield from _lines(done, shell.stdout)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)


def _lines(done: Sequence[Session], out: Iterator[str]) -> Iterator[tuple[Session, str | None]]:
    current: Session | None = None
    empty = False  # an empty line is held back: it may be a mark's
    for line in out:
        if line.startswith(_MARK):
            current, empty = done[int(line[1:])], False
            yield current, None
            continue
        assert current is not None or line == "\n"
        if current is not None:
            if empty:
                yield current, ""
            empty = line == "\n"
            if not empty:
                yield current, line.removesuffix("\n")


def fits(shown: Sequence[str], got: Sequence[str]) -> bool:
    """Whether a document shows what was printed."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…" else re.escape(_same(line)).replace("…", ".*") + r"\n"
        for line in shown
    )
    return re.fullmatch(pattern, "".join(f"{_same(line)}\n" for line in got)) is not None


def _same(line: str) -> str:
    """A line without what differs from run to run."""
    line = re.sub(r"\[pid \d+\]", "[pid N]", line)
    return re.sub(r"0x[0-9a-f]{6,}", "0xADDRESS", line).rstrip()


def _show(page: Path) -> None:
    """Print a page's commands and what they print, as they run."""
    heading = ""
    for session, line in play(sessions(page.read_text()), Path.cwd()):
        if session.hidden:
            continue
        if line is None:
            if session.heading != heading:
                heading = session.heading
                print(f"\n# {heading}")
            print("$ " + session.command.replace("\n", "\n> "), flush=True)
        else:
            print(line, flush=True)


def _write(page: Path) -> None:
    """Put what commands print into a page."""
    text = page.read_text()
    done = sessions(text)
    got: dict[int, list[str]] = {id(session): [] for session in done}
    for session, line in play(done, Path.cwd()):
        if line is not None:
            got[id(session)].append(line)
    for session in reversed(done):
        if not session.hidden and not fits(session.shown, got[id(session)]):
            was = "".join(f"{line}\n" for line in session.shown)
            assert text[session.at :].startswith(was)
            new = "".join(f"{line}\n" for line in got[id(session)])
            text = text[: session.at] + new + text[session.at + len(was) :]
    page.write_text(text)


def main(args: list[str]) -> None:
    """The commands at the head of this file."""
    write = args[:1] == ["--write"]
    (name,) = args[write:]
    (_write if write else _show)(Path(name).resolve())


if __name__ == "__main__":
    main(sys.argv[1:])
