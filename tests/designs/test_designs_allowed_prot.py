"""allowed-prot on the model: each version's words at EADD, at mmap and at mprotect."""

from __future__ import annotations

from errno import EACCES, EBUSY, EFAULT, EINVAL, ENODEV, ENOTTY
from pathlib import Path
from typing import Any

import pytest

from softsgx.cli.lsm import load_selinux
from softsgx.errors import UsageError
from softsgx.policy.apparmor import AppArmorPolicy
from softsgx.policy.apparmor_lsm import AppArmorLsm
from softsgx.policy.labels import PathLabels
from softsgx.policy.selinux_lsm import SELinuxLsm, full_context
from softsgx.uapi import designs as uapi
from softsgx.uapi import sgx
from tests.designs.designs_model import BASE, PAGE, RWX, R, W, World, X

VERSIONS = ("v1", "v2", "v3", "v4")


class Answers:
    """An LSM that denies the hooks that it is told to, and notes what the series' ones hear."""

    def __init__(self, *denied: str) -> None:
        self.denied, self.heard = denied, list[tuple[str, dict[str, Any]]]()

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        if hook.startswith("enclave_"):
            self.heard.append((hook, what))
        return EACCES if hook in self.denied else 0


def world(version: str, *denied: str, fmode: int = 3) -> tuple[World, Answers]:
    w = World(f"allowed-prot:version={version}", fmode=fmode)
    lsm = Answers(*denied)
    w.device.run.lsm = lsm
    assert w.create() == 0
    return w, lsm


def add(w: World, page: int, perm: int, prot: int, **source: Any) -> int:
    return w.region(page, perm, segment=prot, **({"prot": R | W} | source))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_page_is_mapped_with_what_was_declared_and_no_more(version: str) -> None:
    w, _ = world(version)
    assert add(w, 0, R, R | X) == 0
    assert w.mmap(0, R | X) == 0
    assert w.mprotect(0, R) == 0
    assert w.mprotect(0, R | W) == -EACCES
    assert w.mmap(0, RWX) == -EACCES
    assert w.page(0)["max"] == R | X


@pytest.mark.parametrize("version", VERSIONS)
def test_no_page_means_prot_none(version: str) -> None:
    """ "prevent creating a mapping with unchecked protection bits"."""
    w, _ = world(version)
    assert add(w, 1, R, R) == 0
    assert w.mmap(0, R) == -EACCES
    assert w.mmap(0, R, n=2) == -EACCES
    assert w.mmap(0, 0, n=3) == 0
    assert w.mprotect(1, R) == (0 if version in ("v1", "v2") else -EACCES)


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_vm_may_is_the_and_of_all_pages_for_ever(version: str) -> None:
    """v3: "Clear VM_MAY* flags instead of using .may_mprotect() to enforce"."""
    w, _ = world(version)
    assert add(w, 0, R, R | W) == 0
    assert add(w, 1, R, R | X) == 0
    assert w.mmap(0, R, n=2) == 0
    assert w.mprotect(0, R | W) == -EACCES
    assert w.mmap(0, R) == 0
    assert w.mprotect(0, R | W) == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_secinfo_may_exceed_what_is_declared_but_in_v1(version: str) -> None:
    """v2: "Don't validate the SECINFO protection flags against the enclave page's"."""
    w, _ = world(version)
    assert add(w, 0, R | W, R) == (-EACCES if version == "v1" else 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_noexec_source(version: str) -> None:
    """From v2 on EACCES; v1 takes X away, which only SECINFO's own X makes an error."""
    w, _ = world(version)
    assert add(w, 0, R | X, R | X, may=R | W) == -EACCES
    assert add(w, 1, R, R | X, may=R | W) == (0 if version == "v1" else -EACCES)
    assert w.page(1)["max"] == (R if version == "v1" else 0)
    assert add(w, 2, R, R | W, may=R | W) == 0


def test_v1_denials_shrink_silently() -> None:
    w, _ = world("v1", "enclave_load_v1_execute")
    assert add(w, 0, R | X, R | X) == -EACCES
    assert add(w, 1, R, RWX) == 0
    assert w.page(1)["max"] == R | W
    w, lsm = world("v1", "enclave_load_v1_execmod")
    assert add(w, 0, RWX, RWX) == -EACCES
    assert add(w, 1, R | X, RWX) == 0
    assert add(w, 2, R, RWX) == 0
    assert (w.page(1)["max"], w.page(2)["max"]) == (R | X, R | W)
    assert [hook for hook, _ in lsm.heard][:2] == [
        "enclave_load_v1_execute", "enclave_load_v1_execmod",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("version", "hook"),
    [("v2", "enclave_load_v2"), ("v3", "enclave_load_v3"), ("v4", "enclave_load")],
)
def test_later_a_denial_is_one(version: str, hook: str) -> None:
    """v2: "Reject ioctl() immediately on LSM denial"; nothing is added."""
    w, _ = world(version, hook)
    assert add(w, 0, R, R | X) == -EACCES
    assert w.page(0)["present"] == 0


def test_the_source_comes_first() -> None:
    w, lsm = world("v4")
    assert add(w, 0, R, R | X) == 0
    lsm.heard.clear()
    assert add(w, 0, R, R | X) == -EBUSY
    assert lsm.heard == [("enclave_load", {"prot": R | X, "measured": 0})]
    assert add(w, 1, R, R | X, found=0, mapped=0) == -EFAULT
    assert len(lsm.heard) == 1


def test_enclave_map_hears_what_is_mapped_and_comes_before_mprotects_own_question() -> None:
    w, lsm = world("v4")
    assert add(w, 0, R, RWX) == 0
    lsm.heard.clear()
    assert w.mmap(0, R | W) == 0
    assert w.mprotect(0, R | X) == 0
    assert lsm.heard == [
        ("enclave_map", {"prot": R | W, "eaug": 0}),
        ("enclave_map", {"prot": R | X, "eaug": 0}),
    ]
    w, lsm = world("v4", "enclave_map", "file_mprotect")
    assert add(w, 0, R, R) == 0
    assert w.mmap(0, R) == -EACCES


def test_a_page_of_eaug_is_told_apart_when_it_is_mapped() -> None:
    w, lsm = world("v4")
    w.initialized()
    assert w.region(0, R | W, segment=RWX) == 0
    assert [hook for hook, _ in lsm.heard] == []
    assert w.mmap(0, R | X) == 0
    assert lsm.heard == [("enclave_map", {"prot": R | X, "eaug": 1})]
    for version in ("v1", "v2"):
        w, _ = world(version)
        w.initialized()
        assert w.region(0, R | W, segment=RWX) == -ENODEV


@pytest.mark.parametrize("version", VERSIONS)
def test_a_fault_adds_no_page(version: str) -> None:
    w, _ = world(version)
    assert w.mmap(0, 0) == 0
    w.initialized()
    assert w.process.page_fault(BASE, 1).signal


def test_the_ioctl_is_add_region_with_what_is_declared() -> None:
    w, _ = world("v4")
    assert w.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGES, bytes(48)) == -ENOTTY
    assert add(w, 0, R, 8) == -EINVAL
    other = World("source-vma")
    assert other.create() == 0
    assert other.region(0, R, segment=R, prot=R | W) == -EINVAL
    assert uapi.ADD_REGION.size == 56


def test_versions_are_options() -> None:
    with pytest.raises(UsageError, match="version is one of v4, v3, v2, v1"):
        World("allowed-prot:version=v5")


# -- SELinux's and AppArmor's own text, on real policies ------------------------------------------

MODULE = """
(type own_exec_t) (typeattributeset ordinary (own_exec_t)) (roletype object_r own_exec_t)
(filecon "/usr/lib/enclave.so" any (system_u object_r own_exec_t ((s0) (s0))))
"""


@pytest.fixture(scope="module")
def selinux(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("ctypes")
    module = tmp_path_factory.mktemp("cil") / "own.cil"
    module.write_text(MODULE)
    policy = load_selinux(["minimal", str(module)], {}, False)
    return SELinuxLsm(policy, PathLabels(policy), full_context(policy, "loader_t"))


def questions(lsm: Any, version: str, perm: int, most: int, measure: int, **source: Any) -> str:
    """What EADD asks beside the ioctl: permissions and classes, in order."""
    said = list[str]()
    lsm.all_verdicts = True
    lsm.sink = lambda v: said.append(f"{' '.join(v.asked)}:{v.tclass}")
    w = World(f"allowed-prot:version={version}")
    w.device.run.lsm = lsm
    setattr(w.process, "label", lsm.label)  # noqa: B010 - a real process has one
    w.file.security = None
    lsm.ask("file_open", _place(w), {"fmode": 3})
    assert w.create() == 0
    said.clear()
    src = w.put(bytes(PAGE), **({"prot": R} | source))
    from softsgx.sdm.leaves import PT_REG, SECINFO_PT_SHIFT
    from softsgx.sdm.structs import SECINFO

    secinfo = w.put(SECINFO.pack(flags=perm | PT_REG << SECINFO_PT_SHIFT))
    arg = uapi.ADD_REGION.pack(
        src=src, length=PAGE, secinfo=secinfo, flags=measure, segment=most
    )  # fmt: skip
    w.ioctl(uapi.SGX_IOC_ADD_REGION, arg)
    return ", ".join(s for s in said if not s.startswith("ioctl:"))


def _place(w: World) -> Any:
    from softsgx.law.rule import At

    return At(file=w.file, enclave=w.file.enclave, process=w.process)


FILE = {"path": "/usr/lib/enclave.so", "anonymous": 0}


@pytest.mark.parametrize(
    ("version", "prot", "measure", "source", "asked"),
    [
        ("v4", R | W, 0, {}, ""),
        ("v4", R | X, 1, FILE, "sgx_execute:file"),
        ("v4", R | X, 1, FILE | {"modified": 1}, "sgx_execanon:process2"),
        ("v4", R | X, 0, FILE, "sgx_execunmr:process2, sgx_execute:file"),
        ("v4", RWX, 0, {}, "sgx_execdirty:process2, sgx_execunmr:process2, sgx_execanon:process2"),
        ("v3", RWX, 1, FILE, "sgx_execmod:process2, sgx_execanon:process2"),
        ("v2", R | X, 1, FILE | {"prot": R | X}, ""),
        ("v2", R | X, 1, FILE, "execute:file"),
        ("v2", R | X, 1, FILE | {"modified": 1}, "execmod:file"),
        ("v2", RWX, 1, FILE | {"shared": 1}, "execmod:file"),
        ("v2", RWX, 1, FILE, "execmem:process"),
        ("v2", R | X, 1, {}, "execmem:process"),
        ("v1", R | X, 1, FILE | {"prot": R | X}, ""),
        ("v1", RWX, 1, FILE, "execute:file, execmod:file"),
        ("v1", R | X, 1, {}, "execmem:process"),
    ],
)
def test_what_selinux_is_asked_of_a_source(
    selinux: Any, version: str, prot: int, measure: int, source: dict[str, Any], asked: str
) -> None:
    assert questions(selinux, version, R, prot, measure, **source) == asked


def test_what_selinux_is_asked_of_a_mapping(selinux: Any) -> None:
    for version, wx, dirty in (
        ("v4", "sgx_mapwx", "sgx_execdirty"), ("v3", "sgx_execmem", "sgx_execmod")
    ):  # fmt: skip
        hook = "enclave_map" + ("" if version == "v4" else "_v3")
        w, _ = world("v4")
        said = list[str]()
        selinux.all_verdicts = True
        selinux.sink = lambda v, said=said: said.extend(v.asked)
        for prot, eaug in ((RWX, 0), (RWX, 1), (R | X, 1), (R | X, 0), (R | W, 1)):
            assert selinux.ask(hook, _place(w), {"prot": prot, "eaug": eaug}) == 0
        assert said == [wx, wx, dirty]


def test_what_apparmor_is_asked(tmp_path: Path) -> None:
    """ "Require execute permissions when loading an enclave from a file"; of nothing else."""
    profile = tmp_path / "profile"
    profile.write_text(
        "abi <abi/3.0>,\nprofile p flags=(complain) { /dev/sgx/enclave rwm, /usr/lib/* r, }\n"
    )
    lsm = AppArmorLsm(AppArmorPolicy.load(str(profile)), "p")
    assert questions(lsm, "v4", R, R | X, 1, **FILE) == "m:file"
    assert questions(lsm, "v3", R, R | X, 1, **FILE) == "m:file"
    assert questions(lsm, "v4", R, R | W, 1, **FILE) == ""
    assert questions(lsm, "v4", R, R | X, 1) == ""
    assert questions(lsm, "v2", R, R | X, 1, **FILE) == ""


# -- the permissions that no policy ships ----------------------------------------------------------


def test_a_module_adds_permissions_to_classes(tmp_path: Path) -> None:
    module = tmp_path / "more.cil"
    module.write_text("; (class process2 (never))\n(class process2 (sgx_extra sgx_mapwx))\n"
                      "(allow loader_t self (process2 (sgx_extra)))\n")  # fmt: skip
    policy = load_selinux(["minimal", str(module), "sgx"], {}, True)
    me = full_context(policy, "loader_t")
    assert policy.allowed(me, me, "process2", ("sgx_extra",))
    assert not policy.allowed(me, me, "process2", ("sgx_mapwx",))


def test_without_a_declaration_handle_unknown_says() -> None:
    from tests.truthrows import TRUTH

    tiny = str(TRUTH / "selinux-tiny.cil")
    plain, declared = load_selinux([tiny], {}, True), load_selinux([tiny, "sgx"], {}, True)
    for policy, held in ((plain, True), (declared, False)):
        me = full_context(policy, "loader_t")
        assert bool(policy.allowed(me, me, "process2", ("sgx_execdirty",))) is held
