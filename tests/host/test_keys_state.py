"""The device's secret on disk: made once, whoever asks first, and for its owner only."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.errors import UsageError
from softsgx.host.state import root_key, state_dir


def test_where_it_lies() -> None:
    assert state_dir({"SOFTSGX_STATE_DIR": "/a", "XDG_STATE_HOME": "/b", "HOME": "/c"}) == "/a"
    assert state_dir({"XDG_STATE_HOME": "/b", "HOME": "/c"}) == "/b/softsgx"
    assert state_dir({"XDG_STATE_HOME": "relative", "HOME": "/c"}) == "/c/.local/state/softsgx"
    assert state_dir({"SOFTSGX_STATE_DIR": "", "HOME": "/c"}) == "/c/.local/state/softsgx"


def test_made_once(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "softsgx"
    first = root_key(str(directory))
    assert len(first) == 32
    assert root_key(str(directory)) == first
    assert (directory / "root.key").read_bytes() == first
    assert stat.S_IMODE((directory / "root.key").stat().st_mode) == 0o600
    assert os.listdir(directory) == ["root.key"]
    assert root_key(str(tmp_path / "other")) != first


def test_the_environment_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTSGX_STATE_DIR", str(tmp_path / "state"))
    assert root_key() == (tmp_path / "state/root.key").read_bytes()


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    # Each waits for its stdin to close, so that all of them ask at the same time.
    code = (
        "import sys; from softsgx.host.state import root_key; sys.stdin.read();"
        "print(root_key(sys.argv[1]).hex())"
    )
    read_end, write_end = os.pipe()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "state")],
            stdin=read_end,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    os.close(read_end)
    os.close(write_end)
    keys = {run.communicate()[0] for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert keys == {root_key(str(tmp_path / "state")).hex() + "\n"}


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    root_key(str(tmp_path))
    (tmp_path / "root.key").chmod(0o640)
    with pytest.raises(UsageError, match="0640"):
        root_key(str(tmp_path))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_damaged_secret_is_not_replaced(tmp_path: Path, size: int) -> None:
    (tmp_path / "root.key").write_bytes(bytes(size))
    (tmp_path / "root.key").chmod(0o600)
    with pytest.raises(UsageError, match="not 32 bytes"):
        root_key(str(tmp_path))
    assert (tmp_path / "root.key").stat().st_size == size


def test_no_place_for_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"Not a directory.*SOFTSGX_STATE_DIR"):
        root_key(str(tmp_path / "file" / "softsgx"))
