"""What is logged: once in permissive mode, each time in enforcing mode, as avc.c does it."""

from __future__ import annotations

import ctypes.util
from collections.abc import Callable, Iterator

import pytest

from softsgx.policy.avc import Avc
from softsgx.policy.selinux import SELinuxPolicy
from tests.truthrows import TRUTH

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None,
    reason="no libsepol.so.2 here; to run it: apt-get install libsepol2",
)

LOADER = "system_u:system_r:loader_t:s0"
WEAK = "system_u:system_r:weak_t:s0"
DEVICE = "system_u:object_r:sgx_enclave_device_t:s0"
DATA = "system_u:object_r:data_t:s0"
TINY = (TRUTH / "selinux-tiny.cil").read_text()

Make = Callable[..., Avc]


@pytest.fixture
def avc() -> Iterator[Make]:
    """An AVC over the kernel's recorded policy, with more statements in it."""
    loaded: list[SELinuxPolicy] = []

    def make(more: str = "", enforcing: bool = False) -> Avc:
        loaded.append(SELinuxPolicy.from_cil(TINY + more, enforcing=enforcing))
        return Avc(loaded[-1])

    yield make
    for policy in loaded:
        policy.close()


def _logs(avc: Avc, *perms: str, source: str = WEAK, target: str = DEVICE) -> str:
    """The part of an audit line that differs: what is said, of which permissions."""
    answer = avc.ask(source, target, "chr_file", perms)
    said = "denied" if answer.denied else "granted"
    return f"{said} {' '.join(sorted(answer.audited))}" if answer.audited else ""


def _ioctl(avc: Avc, cmd: int) -> str:
    answer = avc.ask(WEAK, DEVICE, "chr_file", ("ioctl",), cmd)
    return ("denied" if answer.denied else "granted") if answer.audited else ""


def test_an_enforcing_kernel_logs_each_denial(avc: Make) -> None:
    """avc_denied() returns before AVC_CALLBACK_GRANT."""
    cache = avc(enforcing=True)
    assert [_logs(cache, "read", "write") for _ in range(3)] == ["denied write"] * 3


def test_a_permissive_kernel_logs_a_permission_once(avc: Make) -> None:
    """avc_denied(): all that was requested is granted in the node, so open() logs ``open`` only."""
    cache = avc()
    assert _logs(cache, "write") == "denied write"
    assert _logs(cache, "read", "write", "execmod") == "denied execmod"
    assert _logs(cache, "write", "execmod") == ""
    # Another node: another source, another target.
    assert _logs(cache, "execmod", source=LOADER) == "denied execmod"
    assert _logs(cache, "execmod", target=DATA).startswith("denied execmod")


def test_a_permissive_domain_is_as_a_permissive_kernel_and_the_others_are_not(avc: Make) -> None:
    """AVD_FLAGS_PERMISSIVE is the source's."""
    cache = avc("(typepermissive weak_t)", enforcing=True)
    assert [_logs(cache, "write") for _ in range(2)] == ["denied write", ""]
    assert [_logs(cache, "execmod", source=LOADER) for _ in range(2)] == ["denied execmod"] * 2


def test_dontaudit_is_silent_but_granted_all_the_same(avc: Make) -> None:
    cache = avc("(dontaudit weak_t sgx_enclave_device_t (chr_file (write)))")
    assert _logs(cache, "write", "execmod") == "denied execmod"
    assert _logs(cache, "write") == ""
    answer = cache.ask(WEAK, DEVICE, "chr_file", ("write",))
    assert not answer.denied
    assert answer.decision.denied == {"write"}  # the policy's own answer stays what it is


def test_what_was_granted_so_falls_under_auditallow(avc: Make) -> None:
    """avc_audit_required(): requested & auditallow, whoever allowed it."""
    cache = avc("(auditallow weak_t sgx_enclave_device_t (chr_file (write read)))")
    assert _logs(cache, "read", "write") == "denied write"  # of a denial the denied alone
    assert _logs(cache, "read", "write") == "granted read write"
    assert _logs(cache, "read") == "granted read"


def test_a_new_mode_or_policy_empties_the_cache(avc: Make) -> None:
    cache = avc()
    assert [_logs(cache, "write") for _ in range(2)] == ["denied write", ""]
    cache.policy.enforcing = True
    assert [_logs(cache, "write") for _ in range(2)] == ["denied write"] * 2
    cache.policy.enforcing = False
    assert [_logs(cache, "write") for _ in range(2)] == ["denied write", ""]
    cache.policy.forget()
    assert _logs(cache, "write") == "denied write"


def test_ioctls_without_a_list_are_one_permission(avc: Make) -> None:
    """Without extended permissions only the av_decision is looked at."""
    cache = avc("(auditallow weak_t data_t (chr_file (ioctl)))")
    ask = [cache.ask(WEAK, DATA, "chr_file", ("ioctl",), cmd) for cmd in (0xA400, 0xA401, 0x5401)]
    assert [(bool(a.denied), sorted(a.audited)) for a in ask] == [
        (True, ["ioctl"]), (False, ["ioctl"]), (False, ["ioctl"])
    ]  # fmt: skip


def test_listed_ioctls_are_each_logged_once(avc: Make) -> None:
    """avc_xperms_allow_perm() adds the command to the driver's decision."""
    cache = avc("(allowx weak_t sgx_enclave_device_t (ioctl chr_file (0xa400)))")
    assert [_ioctl(cache, 0xC008A400), _ioctl(cache, 0xA401), _ioctl(cache, 0xA401)] == [
        "", "denied", ""
    ]  # fmt: skip
    assert [_ioctl(cache, 0xA402), _ioctl(cache, 0xA402)] == ["denied", ""]


@pytest.mark.parametrize(
    ("rule", "command"),
    [
        # security_xperm_test(drivers) fails at first; then the driver's decision has no list.
        ("(allowx weak_t sgx_enclave_device_t (ioctl chr_file (0xa400)))", 0x5401),
        # A driver that rules name, but none that allows: xpd->allowed is NULL.
        ("(dontauditx weak_t sgx_enclave_device_t (ioctl chr_file (0xa400)))", 0xA401),
    ],
)
def test_an_ioctl_of_a_driver_without_a_list_is_logged_each_time(
    avc: Make, rule: str, command: int
) -> None:
    cache = avc(rule)
    assert [_ioctl(cache, command) for _ in range(3)] == ["denied"] * 3


def test_silence_about_an_ioctl(avc: Make) -> None:
    """XPERMS_DONTAUDIT takes an ioctl out of what is logged, and so does a plain dontaudit."""
    listed = "(allowx weak_t sgx_enclave_device_t (ioctl chr_file (0xa400)))"
    for rule in (
        "(dontauditx weak_t sgx_enclave_device_t (ioctl chr_file (0xa401)))",
        "(dontaudit weak_t sgx_enclave_device_t (chr_file (ioctl)))",
    ):
        for enforcing in (True, False):
            assert _ioctl(avc(listed + rule, enforcing=enforcing), 0xA401) == ""


def test_what_falls_out_of_the_cache_is_logged_anew(avc: Make) -> None:
    """AVC_DEF_CACHE_THRESHOLD: 512 decisions, of which 16 go when there are more."""
    names = [f"many{i}_t" for i in range(512)]
    cache = avc("".join(f"(type {name})(roletype object_r {name})" for name in names))
    targets = [f"system_u:object_r:{name}:s0" for name in names]
    assert [_logs(cache, "write") for _ in range(2)] == ["denied write", ""]
    assert {_logs(cache, "write", target=target) for target in targets[:-1]} == {"denied write"}
    assert _logs(cache, "write") == ""
    assert _logs(cache, "write", target=targets[-1]) == "denied write"
    assert _logs(cache, "write") == "denied write"
    assert _logs(cache, "write", target=targets[-2]) == ""
