"""softsgx sweep: many runs, kept; on processes of this machine and on Ray's own local cluster."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from softsgx.errors import UsageError
from softsgx.sweeps.spec import Case, read_spec
from softsgx.sweeps.sweep import Lost, Result, local_pool, sweep
from tests.command import Softsgx

Guest = Callable[[str], Path]

_SPEC = """
designs = ["linux-6.12", "linux-5.11"]
injections = ["", "ADD_PAGES:short"]
[[program]]
argv = ["{program}", "wrong"]
[[policy]]
name = "minimal"
selinux = "minimal"
context = "loader_t"
boolean = "sgx_loader_write=off"
[[policy]]
name = "without"
"""


@pytest.fixture
def spec(tmp_path: Path, guest: Guest) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(_SPEC.format(program=guest("shortcount")))
    return path


def _sweep(softsgx: Softsgx, spec: Path, *args: str | Path) -> list[dict[str, Any]]:
    done = softsgx.command("sweep", spec, "--json", *args)
    assert done.returncode == 1, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _told(results: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(r["design"], r["policy"], r["injection"], r["outcome"], r["first"]) for r in results]


def test_where_each_first_fails_and_what_is_kept(spec: Path, softsgx: Softsgx) -> None:
    page = spec.parent / "page.html"
    results = _sweep(softsgx, spec, "--html", page)
    assert len(results) == 8
    for r in results:
        if r["policy"] == "without":
            assert r["outcome"] == ("failed" if r["injection"] != "none" else "ok")
        if r["outcome"] == "failed" and r["policy"] == "without":
            assert (r["first"]["what"], r["first"]["rule"]) == ("SGX_IOC_ENCLAVE_INIT", "init")
        if r["policy"] == "minimal":
            assert r["first"]["what"] == "open"
            assert any("write" in line for line in r["lacks"])
    assert page.read_text().count("<tr>") == 9
    kept = spec.with_suffix(".sweep")
    files = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert len(files) == 16
    gone = min(files)
    gone.unlink()
    assert _told(_sweep(softsgx, spec)) == _told(results)
    assert [p for p in files if p.suffix == ".json" and p.stat().st_mtime_ns != files[p]] == [
        gone.with_suffix(".json")
    ] * (gone.suffix == ".json")


def test_a_cluster_that_is_not_there_is_told_in_one_line(spec: Path, softsgx: Softsgx) -> None:
    pytest.importorskip("ray", reason="no ray for this Python; pip install 'softsgx[sweep]'")
    with socket.socket() as nobody:  # has the port, and does not listen
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        done = softsgx.command("sweep", "--ray", address, spec)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"softsgx: --ray {address}: Connection refused\n"


def test_the_same_on_ray(spec: Path, softsgx: Softsgx) -> None:
    pytest.importorskip("ray", reason="no ray for this Python; pip install 'softsgx[sweep]'")
    text = spec.read_text().partition("[[policy]]")[0]
    spec.write_text(text)
    local, other = spec.parent / "local", spec.parent / "ray"
    here = _sweep(softsgx, spec, "-o", local)
    there = _sweep(softsgx, spec, "-o", other, "--ray", "--jobs", "2")
    assert _told(here) == _told(there)
    assert {p.name for p in local.iterdir()} == {p.name for p in other.iterdir()}


def test_what_is_lost_is_made_again(spec: Path) -> None:
    cases = read_spec(str(spec))
    made: list[str] = []

    def pool(
        do: object, todo: Iterable[Case], folder: str
    ) -> Iterator[tuple[Case, tuple[Result, bytes] | None]]:
        def one(case: Case, folder: str) -> tuple[Result, bytes]:
            made.append(case.key)
            if len(made) == 3:
                raise Lost
            return {"outcome": "ok", "program": case.program}, b"recorded"

        yield from local_pool(2)(one, todo, folder)

    out = str(spec.parent / "out")
    results, lost = sweep(cases, out, pool)
    assert (len(results), lost) == (7, 1)
    results, lost = sweep(cases, out, pool)
    assert (len(results), lost, len(made)) == (8, 0, 9)
    assert made[8] == made[2]
    assert len(os.listdir(out)) == 16


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("nothing = 1", "no key 'nothing'"),
        ("timeout = 0", "timeout = 0"),
        ("designs = [1]", "a list of texts"),
        ('designs = ["none"]', "no design 'none'"),
        ('injections = ["ADD_PAGES:EAGAIN"]', "ADD_PAGES gives no EAGAIN"),
        ('options = [["--record", "x"]]', "--record is the sweep's own"),
        ("[[policy]]\nselinx = 1", "no key 'selinx'"),
        ("[[program]]\nargv = 1", "argv is a list of texts"),
        ("= 1", "no TOML"),
        ('designs = ["linux-6.12", "linux-6.12"]', "are the same"),
    ],
)
def test_a_mistake_in_a_spec_is_a_line(change: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    program = '[[program]]\nargv = ["true"]\n'
    path.write_text(program + change if change.startswith("[") else f"{change}\n{program}")
    with pytest.raises(UsageError) as e:
        read_spec(str(path))
    assert why in str(e.value)
    assert "\n" not in str(e.value)


def test_a_mistake_is_a_line_and_status_2(softsgx: Softsgx, tmp_path: Path) -> None:
    spec = tmp_path / "s.toml"
    spec.write_text('[[program]]\nargv = ["true"]\n')
    for args in ((), ("/nowhere.toml",), (spec, "--jobs", "0"), (spec, "--what"), (spec, "-o")):
        done = softsgx.command("sweep", *args)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
