"""docs/designs/ says what the rules say, and the comparison is what the mail argues about."""

from __future__ import annotations

import ctypes.util
import shutil
from pathlib import Path

import pytest

from softsgx.cli import main as cli
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.policy.labels import PathLabels
from softsgx.policy.selinux import MINIMAL, SELinuxPolicy
from softsgx.policy.selinux_lsm import SELinuxLsm, full_context
from softsgx.report.comparison import TASKS, Needs, needs, told_apart
from tests.cache import ROOT
from tests.command import Softsgx

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or ctypes.util.find_library("selinux") is None
    or shutil.which("apparmor_parser", path="/usr/bin:/bin:/usr/sbin:/sbin") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1 apparmor",
)

PAGES = ROOT / "docs" / "designs"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("written")
    out = base / "new" / "pages"
    assert Softsgx(base).command("designs", "--markdown", out).returncode == 0
    return out


def test_the_committed_pages_are_what_the_rules_say(written: Path) -> None:
    there = {path.name: path.read_text() for path in PAGES.iterdir()}
    assert set(there) == {f"{name}.md" for name in DESIGNS} | {"README.md", "sgx-instructions.md"}
    assert there == {path.name: path.read_text() for path in written.iterdir()}, (
        "to mend it: softsgx designs --markdown docs/designs"
    )


def test_a_page_that_is_not_current_is_told(
    softsgx: Softsgx, written: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(written, tmp_path / "pages")
    page = out / "v20.md"
    page.write_text(page.read_text().replace("EEXIST", "EBUSY"))
    (out / "segments.md").unlink()
    done = softsgx.command("designs", "--markdown", out, "--check")
    assert done.returncode == 1
    assert {Path(line.partition(":")[0]).name for line in done.stdout.splitlines()} == {
        "v20.md",
        "segments.md",
    }


@pytest.mark.parametrize("args", [["--markdown"], ["--check"], ["--markdown", "x", "v20"]])
def test_bad_usage_of_markdown(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["designs", *args]) == 2
    assert "--markdown" in capsys.readouterr().err


@pytest.fixture(scope="module")
def lsm() -> SELinuxLsm:
    policy = SELinuxPolicy.load(MINIMAL, enforcing=False)
    return SELinuxLsm(policy, PathLabels(policy), full_context(policy, "loader_t"))


def _needs(lsm: SELinuxLsm, design: str) -> dict[str, Needs]:
    return {task.name: needs(lambda: make_design(design), lsm, task) for task in TASKS}


def test_as_is_today_loaders_need_write_and_execute(lsm: SELinuxLsm) -> None:
    """seed: "As is today, SELinux policies would require … FILE__WRITE and FILE__EXECUTE"."""
    found = _needs(lsm, "v20")
    (wanted,) = found["file"].sets
    assert wanted == {("device", perm) for perm in ("read", "write", "execute")}
    assert not told_apart(found["file"], found["generated"])
    assert found["heap"].why == "no SGX2"


def test_a_heap_needs_no_write_and_dynamic_loading_does(lsm: SELinuxLsm) -> None:
    """seed, point 7, of an fd that is open for writing."""
    found = _needs(lsm, "ioc-mprotect:source=prot")
    assert all(("device", "write") not in s for s in found["heap"].sets)
    assert all(("device", "write") in s for s in found["dynamic"].sets)


def test_an_extension_makes_read_only_memory_executable(lsm: SELinuxLsm) -> None:
    """What docs/findings.md says of source=prot: written, mprotect(R), added, extended by X."""
    found = _needs(lsm, "ioc-mprotect:source=prot,open=rdonly")
    both = {frozenset({("device", "read"), ("device", "execute")})}
    assert set(found["file"].sets) == set(found["generated"].sets) == both
    assert set(found["generated"].sets.values()) == {"anonymous memory, mapped R, then extended"}


def test_which_designs_tell_the_loads_apart(lsm: SELinuxLsm) -> None:
    apart = {}
    for name in ("linux-6.12", "linux-6.0", "safe-to-execute", "source-vma",
                 "source-vma:snapshot=may", "segments", "ioc-mprotect"):  # fmt: skip
        found = _needs(lsm, name)
        apart[name] = told_apart(found["file"], found["generated"])
    assert [name for name, is_so in apart.items() if is_so] == ["safe-to-execute", "source-vma"]
