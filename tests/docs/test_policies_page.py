"""The commands of docs/policies.md do what the page says: each block is run as it stands."""

from __future__ import annotations

import ctypes.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.policy.selinux import MINIMAL, SELinuxPolicy
from tests.cache import ROOT
from tests.command import PATIENCE

PAGE = (ROOT / "docs" / "policies.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
POLICY = "/etc/selinux/default/policy/policy.33"
CONTEXTS = "/etc/selinux/default/contexts/files/file_contexts"
_SBIN = "/usr/bin:/bin:/usr/sbin:/sbin"
pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or ctypes.util.find_library("selinux") is None
    or not all(shutil.which(name, path=_SBIN) for name in ("apparmor_parser", "audit2allow")),
    reason="no engine or no tools here; to run it: apt-get install libsepol2 libselinux1 "
    "apparmor policycoreutils-python-utils",
)


@pytest.fixture
def shell(
    guest: Callable[[str], Path], tmp_path: Path
) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs a block where ``loader`` and the page's ``profiles`` lie; its last line has to pass."""
    (tmp_path / "loader").symlink_to(guest("intel_like"))
    (profiles,) = re.findall(r"^```\n(abi .*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "profiles").write_text(profiles)
    # The place of a system's own policy: any compiled one that has unconfined_t will do.
    policy = SELinuxPolicy.load(MINIMAL)
    (tmp_path / "policy.33").write_bytes(policy.image)
    (tmp_path / "file_contexts").write_bytes(policy.file_contexts)
    policy.close()
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:{_SBIN}"

    def run(block: str) -> subprocess.CompletedProcess[str]:
        block = block.replace(POLICY, "./policy.33").replace(CONTEXTS, "./file_contexts")
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", block], cwd=tmp_path, capture_output=True,
            text=True, timeout=PATIENCE, env=os.environ | {"PATH": path}, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_block_runs(
    number: int, shell: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    if "selinux/devel" in BLOCKS[number] and not Path("/usr/share/selinux/devel").exists():
        pytest.skip("no headers of a policy; to run it: apt-get install selinux-policy-dev")
    done = shell(BLOCKS[number])
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "ok ecall" in done.stdout
    assert "not ok" not in done.stdout


def test_the_page_has_no_command_that_is_not_run() -> None:
    assert len(BLOCKS) == 5
    outside = re.sub(r"^```sh\n.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"^\s*(?:\$ )?softsgx ", outside, re.MULTILINE)


def test_the_last_step_needs_the_module_that_the_one_before_made(
    shell: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    (block,) = [each for each in BLOCKS if "--selinux loader.cil" in each]
    done = shell(block.replace(" --selinux loader.cil", ""))
    assert done.returncode == 1
    assert "not ok map: Permission denied" in done.stdout
    done = shell(block)
    assert "missing: allow loader_t sgx_enclave_device_t:chr_file execute;" in done.stdout
    assert "or set: sgx_loader_execute=1" in done.stdout


def test_what_the_tools_and_softsgx_say_is_missing(
    shell: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    (block,) = [each for each in BLOCKS if "audit2allow" in each]
    rule = (
        r"allow bystander_t sgx_enclave_device_t:chr_file \{ execute ioctl map open read write \};"
    )
    assert re.search(rule, shell(block).stdout)
    (block,) = [each for each in BLOCKS if "profiles:worker" in each and "policy" in each]
    assert "  /dev/sgx_enclave wm," in shell(block).stdout.splitlines()
