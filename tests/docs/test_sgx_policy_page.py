"""docs/sgx-policy.md: its commands and its module, and what it says of Debian's policy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from softsgx.policy.labels import PathLabels
from softsgx.policy.selinux import MINIMAL, SELinuxPolicy
from softsgx.policy.why import why
from tests.cache import ROOT
from tests.command import PATIENCE, Softsgx
from tests.debian_policy import find_policy

PAGE = (ROOT / "docs" / "sgx-policy.md").read_text()
_SBIN = "/usr/bin:/bin:/usr/sbin:/sbin"
_DEVEL = Path("/usr/share/selinux/devel/Makefile")
_DEBIAN = find_policy()
needs_devel = pytest.mark.skipif(
    not _DEVEL.exists() or shutil.which("checkmodule", path=_SBIN) is None,
    reason="no headers of a policy; to run it: apt-get install selinux-policy-dev",
)
needs_debian = pytest.mark.skipif(
    _DEBIAN is None,
    reason="Debian's policy is not in the cache; to build it: python -m tests.debian_policy",
)


def _block(kind: str) -> str:
    (text,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(text)


def _shell(code: str, cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:{_SBIN}"
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", code], cwd=cwd, capture_output=True, text=True,
        timeout=PATIENCE, env=os.environ | {"PATH": path}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


@needs_devel
def test_the_module_of_the_device_builds(tmp_path: Path) -> None:
    for kind in ("te", "fc"):
        (tmp_path / f"sgx_device.{kind}").write_text(_block(kind))
    (command,) = re.findall(r"`(make -f \S+ sgx_device\.pp)`", PAGE)
    _shell(command, tmp_path)
    _shell("semodule_unpackage sgx_device.pp device.mod device.fc", tmp_path)
    text = (tmp_path / "device.fc").read_text()
    built = re.sub(r"^#.*", "", text, flags=re.MULTILINE).split()
    assert built[:3] == ["/dev/sgx_enclave", "-c", "system_u:object_r:sgx_enclave_device_t:s0"]
    assert re.search(rf"type {built[2].split(':')[2]};", _block("te"))


@needs_devel
def test_the_commands_run(guest: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "loader").symlink_to(guest("intel_like"))
    policy = SELinuxPolicy.load(MINIMAL)  # in the place of a system's own, which may not be here
    (tmp_path / "policy.33").write_bytes(policy.image)
    (tmp_path / "file_contexts").write_bytes(policy.file_contexts)
    policy.close()
    code = _block("sh").replace("/etc/selinux/default/policy/", "./")
    code = code.replace("/etc/selinux/default/contexts/files/", "./")
    said = _shell(code.replace("user_t", "bystander_t"), tmp_path)
    assert "ok ecall" in said
    rule = "allow bystander_t sgx_enclave_device_t:chr_file { execute ioctl map open read write };"
    assert rule in (tmp_path / "app.te").read_text()
    # What the page shows of Fedora's policy, whose types the shipped policy has.
    shown = re.search(
        r"^allow user_t sgx_enclave_device_t:.*\nallow user_t .*$", PAGE, re.MULTILINE
    )
    assert shown is not None
    assert shown[0].replace("user_t", "bystander_t") in (tmp_path / "app.te").read_text()


@pytest.fixture(scope="module")
def debian() -> Iterator[SELinuxPolicy]:
    assert _DEBIAN is not None
    policy = SELinuxPolicy.load(str(_DEBIAN[0]))
    yield policy
    policy.close()


@needs_debian
def test_debians_labels(debian: SELinuxPolicy) -> None:
    assert _DEBIAN is not None
    labels = PathLabels(debian, file_contexts=str(_DEBIAN[1]), xattrs=False)
    for node in ("enclave", "provision", "vepc"):
        assert labels.label_for_path(f"/dev/sgx_{node}") == "system_u:object_r:device_t:s0"
    labels.close()


@needs_debian
@pytest.mark.parametrize(
    ("who", "has", "booleans"),
    [
        ("unconfined_u:unconfined_r:unconfined_t:s0", True, "allow_execmem"),
        ("user_u:user_r:user_t:s0", False, "allow_execmem"),
        ("staff_u:staff_r:staff_t:s0", False, "allow_execmem"),
        ("system_u:system_r:httpd_t:s0", False, "httpd_execmem"),
    ],
)
def test_who_has_it_under_debians(
    who: str, has: bool, booleans: str, debian: SELinuxPolicy
) -> None:
    perms = ("read", "write", "open", "ioctl", "map", "execute")
    device = debian.allowed(who, "system_u:object_r:device_t:s0", "chr_file", perms)
    assert device.denied == (frozenset() if has else frozenset(perms))
    found = why(debian, who, who, "process", ("execmem",))
    assert found.denied == ["execmem"]
    assert {booleans: True} in found.booleans


def test_what_a_loader_needs(
    softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    """Under each of Linux's designs: the page's permissions, neither execmem nor execmod."""
    for design in ("linux-5.11", "linux-6.12"):
        record = tmp_path / design
        done = softsgx(
            "--design", design, "--selinux", "minimal", "--context", "bystander_t", "--permissive",
            "--record", record, "--", guest("intel_like"),
        )  # fmt: skip
        assert "ok ecall" in done.stdout
        rules = re.findall(r"^\(allow .*", softsgx.command("policy", record).stdout, re.MULTILINE)
        device = "(chr_file (execute ioctl map open read write))"
        assert rules == [
            f"(allow bystander_t sgx_enclave_device_t {device})",
            "(allow bystander_t sgx_provision_device_t (chr_file (open read)))",
        ]
