"""A distribution's whole policy: two megabytes, booleans by the hundred, nothing of SGX."""

from __future__ import annotations

import ctypes.util
import random
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from softsgx.policy.labels import PathLabels
from softsgx.policy.selinux import SELinuxPolicy
from softsgx.policy.why import why
from softsgx.record.avc import avc_line
from tests.debian_policy import find_policy

_FOUND = find_policy()
pytestmark = [
    pytest.mark.skipif(
        _FOUND is None,
        reason="Debian's policy is not in the cache; to build it: python -m tests.debian_policy",
    ),
    pytest.mark.skipif(
        ctypes.util.find_library("sepol") is None,
        reason="no libsepol.so.2 here; to run it: apt-get install libsepol2",
    ),
]

UNCONFINED = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"
DEVICE = "system_u:object_r:device_t:s0"


@pytest.fixture(scope="module")
def policy() -> Iterator[SELinuxPolicy]:
    assert _FOUND is not None
    loaded = SELinuxPolicy.load(str(_FOUND[0]))
    yield loaded
    loaded.close()


def test_labels_and_transitions(policy: SELinuxPolicy) -> None:
    assert _FOUND is not None
    labels = PathLabels(policy, file_contexts=str(_FOUND[1]), xattrs=False)
    # Debian knows nothing of SGX: the device is like any other.
    assert labels.label_for_path("/dev/sgx_enclave") == DEVICE
    sshd = labels.label_for_path("/usr/sbin/sshd", 0o100000)
    assert sshd == "system_u:object_r:sshd_exec_t:s0"
    labels.close()
    init = "system_u:system_r:init_t:s0"
    assert policy.transition(init, sshd, "process") == "system_u:system_r:sshd_t:s0"
    assert policy.transition(UNCONFINED, "system_u:object_r:tmp_t:s0", "file") == (
        "unconfined_u:object_r:user_tmp_t:s0"
    )
    assert policy.new_inode_context(UNCONFINED, "tmpfs") == "unconfined_u:object_r:user_tmpfs_t:s0"
    assert policy.has_policycap("open_perms")
    assert len(policy.booleans()) > 200


def test_an_enclave_runs_unconfined_but_not_with_modified_code(policy: SELinuxPolicy) -> None:
    loading = ("read", "write", "open", "map", "execute")
    assert policy.allowed(UNCONFINED, DEVICE, "chr_file", loading)
    assert policy.allowed_ioctl(UNCONFINED, DEVICE, "chr_file", 0xA400)
    assert not policy.allowed(UNCONFINED, UNCONFINED, "process", ("execmem",))


def test_why_names_the_booleans_that_audit2allow_names(policy: SELinuxPolicy) -> None:
    tool = shutil.which("audit2allow")
    if tool is None:
        pytest.skip("no audit2allow here; to run it: apt-get install policycoreutils-python-utils")
    assert _FOUND is not None
    types = [item.line[len("(type ") : -1] for item in policy.text.statements("type")]
    chosen = random.Random(4).sample(types, 300)
    asked = 0
    for name in chosen:
        context = f"system_u:object_r:{name}:s0"
        question = ("system_u:system_r:httpd_t:s0", context, "file", ("read",))
        reason = why(policy, *question)
        singles = {key for values in reason.booleans for key in values if len(values) == 1}
        if not reason.booleans:
            continue
        asked += 1
        line = avc_line(
            milliseconds=1, serial=1, perms=question[3], pid=1, comm="httpd", path="/f",
            scontext=question[0], tcontext=context, tclass=question[2],
        )  # fmt: skip
        done = subprocess.run(
            [tool, "-p", _FOUND[0]], input=line + "\n", capture_output=True, text=True, check=True
        )
        named = {word for word in done.stdout.split() if word.strip("',") in policy.booleans()}
        assert {word.strip("',") for word in named} == singles, name
        if asked == 4:
            break
    assert asked == 4
