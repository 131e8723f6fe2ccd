"""Mistakes with the options of a policy: one line that says what is wrong, and status 2."""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.policy.selinux import MINIMAL
from tests.command import Softsgx

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or ctypes.util.find_library("selinux") is None
    or shutil.which("apparmor_parser", path="/usr/bin:/bin:/usr/sbin:/sbin") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1 apparmor",
)

_MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no policy": (("--selinux", "missing"), "missing: cannot read the policy: No such file"),
    "no policy at all": (("--selinux", "README"), "README: not a compiled SELinux policy"),
    "broken CIL": (("--selinux", "broken.cil"), "broken.cil: "),
    "broken module": (("--selinux", "minimal", "--selinux", "broken.cil"), "broken.cil"),
    "unknown type": (("--selinux", "minimal", "--context", "no_t"), "has the type 'no_t'"),
    "unknown context": (("--selinux", "minimal", "--context", "a:b:c:s0"), "not a context of"),
    "unknown context of a program": (
        ("--selinux", "minimal", "--context", "/bin/sh=no_t"),
        "has the type 'no_t'",
    ),
    "unknown boolean": (("--selinux", "minimal", "--boolean", "no_bool=on"), "no_bool"),
    "no value": (("--selinux", "minimal", "--boolean", "sgx_loader_write"), "NAME=on or NAME=off"),
    "no contexts": (("--selinux", "minimal", "--file-contexts", "missing"), "missing: no such"),
    "no --selinux": (("--context", "loader_t"), "belongs to --selinux"),
    "no module": (("--audit", "log"), "--audit needs a security module"),
    "both": (("--selinux", "minimal", "--apparmor", "profile"), "Linux runs one of them"),
    "no profile file": (("--apparmor", "missing:x"), "missing:x: cannot read the profile"),
    "broken profile": (("--apparmor", "README"), "README: the profile does not compile"),
    "unknown profile": (("--apparmor", "profile:nobody"), "no profile named 'nobody'"),
    "which profile": (("--apparmor", "profile"), "choose one"),
    "unknown profile of a program": (
        ("--apparmor", "profile:a", "--profile", "/bin/sh=nobody"),
        "no profile named 'nobody'",
    ),
    "a profile of no path": (("--apparmor", "profile:a", "--profile", "b"), "write /PATH=NAME"),
    "a path without a profile": (
        ("--apparmor", "profile:a", "--profile=/bin/sh="),
        "write /PATH=NAME",
    ),
    "no --apparmor": (("--profile", "/bin/sh=a"), "belongs to --apparmor"),
    "a profile for SELinux": (
        ("--selinux", "minimal", "--profile", "/bin/sh=a"),
        "write --context PATH=CONTEXT",
    ),
    "audit into nothing": (("--selinux", "minimal", "--audit", "no/log"), "No such file"),
}


def _profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile"
    path.write_text("abi <abi/3.0>,\nprofile a { /x r, }\nprofile b { /x r, }\n")
    return path


@pytest.mark.parametrize("mistake", _MISTAKES)
def test_mistakes_are_one_line_and_status_2(mistake: str, softsgx: Softsgx, tmp_path: Path) -> None:
    (tmp_path / "README").write_text("neither a policy nor a profile\n")
    (tmp_path / "broken.cil").write_text("(allow nobody_t nothing_t (file (read)))\n")
    _profile(tmp_path)
    options, said = _MISTAKES[mistake]
    done = softsgx(*options, "--", "/bin/true")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("softsgx: ")
    assert said in done.stderr


def test_without_the_engines_one_line_says_what_to_install(
    softsgx: Softsgx, tmp_path: Path
) -> None:
    profile = _profile(tmp_path)
    code = (
        "import ctypes, os, sys\n"
        "real = ctypes.CDLL\n"
        "def no_sepol(name=None, *rest, **more):\n"
        "    if name and 'sepol' in name: raise OSError('not found')\n"
        "    return real(name, *rest, **more)\n"
        "ctypes.CDLL = no_sepol\n"
        "import shutil; shutil.which = lambda *_, **__: None\n"
        "from softsgx.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    for options, package in (
        (("--selinux", MINIMAL), "libsepol2"),
        (("--apparmor", str(profile)), "apparmor"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, "run", *options, "--", "/bin/true"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert f"install the package {package}" in done.stderr


def test_explain_and_policy_say_what_they_need(softsgx: Softsgx, tmp_path: Path) -> None:
    record = tmp_path / "run"
    softsgx("--record", record, "--", "/bin/true")
    for command in ("explain", "policy"):
        for arguments, said in (
            ((record,), "no run in it had a security module"),
            ((tmp_path / "missing",), "No such file"),
            ((), f"{command} needs one recording"),
            (("--wrong", record), "no option --wrong"),
        ):
            done = softsgx.command(command, *arguments)
            assert (done.returncode, done.stdout) == (2, "")
            assert len(done.stderr.splitlines()) == 1
            assert said in done.stderr
        assert softsgx.command(command, "--help").stdout.startswith(f"usage: softsgx {command}")


def test_a_policy_that_is_gone(softsgx: Softsgx, tmp_path: Path) -> None:
    policy, record = tmp_path / "p.cil", tmp_path / "run"
    policy.write_text(Path(MINIMAL).read_text())
    softsgx("--selinux", policy, "--record", record, "--", "/bin/true")
    assert softsgx.command("explain", record).stdout.splitlines()[1:] == ["nothing was asked"]
    policy.unlink()
    for command in ("explain", "policy"):
        done = softsgx.command(command, record)
        assert (done.returncode, done.stdout) == (2, "")
        assert (
            done.stderr == f"softsgx: {policy}: cannot read the policy: No such file or directory\n"
        )


def test_a_programs_name_stays_in_its_comment(softsgx: Softsgx, tmp_path: Path) -> None:
    record, program = tmp_path / "run", tmp_path / "a\n(b)"
    program.symlink_to("/bin/true")
    softsgx("--selinux", "minimal", "--record", record, "--", program)
    lines = softsgx.command("policy", record).stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(";") for line in lines)
