"""``run --load`` and ``designs --load``: a design of one's own without an edit of the package."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.record.reader import read
from tests.cache import ROOT
from tests.command import Softsgx

Guest = Callable[[str], Path]
_ORDERS = "0 open e rw\n0 create e\n0 add e p0 via=pages src=anon_rw perm=rwx\n"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The file of docs/checking.md, with a design that refuses pages which are W and X."""
    page = (ROOT / "docs" / "checking.md").read_text()
    (text,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    path = tmp_path / "mine.py"
    path.write_text(text)
    return path


def test_a_loaded_design_is_enforced_on_real_processes(
    mine: Path, softsgx: Softsgx, guest: Guest, tmp_path: Path
) -> None:
    for design, answer in ((("--design", "strict"), "EINVAL"), ((), "EINVAL"),
                           (("--design", "linux-5.11"), "0")):  # fmt: skip
        record = tmp_path / f"r{len(design)}{answer}"
        options = ("--load", mine, *design, "--record", record)
        done = softsgx(*options, "--", guest("orders"), stdin=_ORDERS)
        assert done.stdout.split() == ["0", "0", answer]
    refused = [e for e in read(str(tmp_path / "r0EINVAL")) if e.get("answer", 0) < 0]
    assert [e["why"] for e in refused] == ["not both W and X"]
    assert refused[0]["decided"]["law"] == "strict"


def test_a_loaded_design_is_printed(mine: Path, softsgx: Softsgx) -> None:
    done = softsgx.command("designs", "--load", mine, "strict")
    assert done.returncode == 0
    assert "strict: Linux 5.11, and no page is both writable and executable" in done.stdout
    assert "not both W and X" in done.stdout
    assert "strict" in softsgx.command("designs", "--load", mine).stdout


def test_mistakes_are_one_line(mine: Path, softsgx: Softsgx, guest: Guest) -> None:
    mine.write_text(mine.read_text().replace("super().validate_secinfo(k, at, r)", "k.nothing()"))
    for command, message in (
        (("run", "--load", "missing.py", "--", "true"), "--load missing.py: No such file"),
        (("run", "--load", "/dev/null", "--", "true"), "--load /dev/null: no design in it"),
        (("designs", "--load"), "--load needs a value"),
        (("run", "--load", mine, "--", guest("orders")), f"--load {mine}:"),
    ):
        done = softsgx.command(*command, stdin=_ORDERS)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"softsgx: {message}")
        assert len(done.stderr.splitlines()) == 1


def test_a_trace_of_a_loaded_design_is_replayed(
    mine: Path, softsgx: Softsgx, guest: Guest, tmp_path: Path
) -> None:
    traces = tmp_path / "traces"
    where = ("--load", mine, "--property", "elrange-fixed", "--trace-dir", traces, "strict")
    done = softsgx.command("check", *where)
    assert done.returncode == 1, done.stderr
    trace = traces / "strict.elrange-fixed.json"
    done = softsgx.command("replay", "--load", mine, "--orders", guest("orders"), trace, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["holds"] is True
    assert said["evidence"][0] == "all as the checker says"
    done = softsgx.command("replay", "--orders", guest("orders"), trace)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no design 'strict'" in done.stderr


def test_a_loaded_design_in_a_sweep_and_explored(
    mine: Path, softsgx: Softsgx, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('designs = ["strict"]\n[[program]]\nargv = ["/bin/true"]\n')
    sweep = ("sweep", "--load", mine, "--json", spec)
    (result,) = json.loads(softsgx.command(*sweep).stdout)
    assert (result["design"], result["outcome"]) == ("strict", "ok")
    kept = {path.name for path in (tmp_path / "spec.sweep").glob("*.jsonl")}
    softsgx.command(*sweep)
    assert {path.name for path in (tmp_path / "spec.sweep").glob("*.jsonl")} == kept
    mine.write_text(mine.read_text() + "# another design\n")
    softsgx.command(*sweep)
    assert {path.name for path in (tmp_path / "spec.sweep").glob("*.jsonl")} > kept
    done = softsgx.command("sweep", spec)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no design 'strict'" in done.stderr
    done = softsgx.command("explore", "--load", mine, "--design", "strict", "--", "/bin/true")
    assert done.returncode == 0
    assert "it lives with every fault" in done.stdout


def test_a_recording_of_a_loaded_design_needs_no_file(
    mine: Path, softsgx: Softsgx, guest: Guest, tmp_path: Path
) -> None:
    options = ("--load", mine, "--selinux", "minimal", "--context", "loader_t", "--record")
    softsgx(*options, tmp_path / "run", "--", guest("orders"), stdin=_ORDERS)
    for command in (
        ("show", tmp_path / "run"), ("explain", tmp_path / "run"), ("policy", tmp_path / "run"),
        ("report", tmp_path / "run", "-o", tmp_path / "page.html"),
    ):  # fmt: skip
        done = softsgx.command(*command)
        assert (done.returncode, done.stderr) == (0, ""), command
    assert "strict" in softsgx.command("explain", tmp_path / "run").stdout
