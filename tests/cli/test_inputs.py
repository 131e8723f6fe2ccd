"""Files that a user names to be read: what has no end is refused, in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

_MOST = 4 << 30  # bytes, of what reads without end


@pytest.mark.parametrize(
    "command",
    [
        ("show", "{}"),
        ("explain", "{}"),
        ("policy", "{}"),
        ("report", "{}", "-o", "/dev/null"),
        ("replay", "{}"),
        ("sweep", "{}"),
        ("run", "--inject", "{}", "--", "/bin/true"),
        ("run", "--selinux", "{}", "--", "/bin/true"),
        ("run", "--apparmor", "{}", "--", "/bin/true"),
        ("run", "--load", "{}", "--", "/bin/true"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("path", ["/dev/zero", "/dev/full"])
def test_a_device_without_end_is_refused(command: tuple[str, ...], path: str) -> None:
    words = [word.format(path) for word in command]
    done = subprocess.run(
        ["prlimit", f"--as={_MOST}", sys.executable, "-m", "softsgx", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    assert path in lines[0]
    assert "it is a device" in lines[0]


def test_a_pipe_is_read_to_its_end() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "softsgx", "show", "/dev/stdin"],
        input="{}\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "device" not in done.stderr
    assert "/dev/stdin" in done.stderr
