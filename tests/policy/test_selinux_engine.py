"""The SELinux engine against what a real kernel answered, and against Debian's own tools."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from softsgx.errors import UnsupportedError, UsageError
from softsgx.policy import native
from softsgx.policy.decision import Decision
from softsgx.policy.labels import PathLabels
from softsgx.policy.native import compile_cil
from softsgx.policy.rules import PolicyText, evaluate, parse
from softsgx.policy.selinux import SELinuxPolicy
from tests.lsm.lsm_replay import EXEC, WRITE, File, Vma, replay
from tests.truthrows import TRUTH, Row, Truth, read

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None,
    reason="no libsepol.so.2 here; to run it: apt-get install libsepol2",
)

CIL = TRUTH / "selinux-tiny.cil"
KERNEL = "system_u:system_r:kernel_t:s0"
LOADER = "system_u:system_r:loader_t:s0"
WEAK = "system_u:system_r:weak_t:s0"
DEVICE = "system_u:object_r:sgx_enclave_device_t:s0"
DATA = "system_u:object_r:data_t:s0"


@pytest.fixture(scope="module")
def policy() -> Iterator[SELinuxPolicy]:
    loaded = SELinuxPolicy.load(str(CIL))
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def truth() -> Truth:
    return read("selinux-tiny")


class Hooks:
    """Linux 6.1 security/selinux/hooks.c for one domain."""

    def __init__(self, policy: SELinuxPolicy, domain: str) -> None:
        self.policy = policy
        self.domain = domain
        self.labels = {
            "file": (DATA, "file"),
            "zero": ("system_u:object_r:zero_device_t:s0", "chr_file"),
            "sgx": (DEVICE, "chr_file"),
            "memfd": (policy.new_inode_context(domain, "tmpfs"), "file"),
            "anonsec": (policy.anon_inode_context(domain, "[sgx_segment]"), "anon_inode"),
        }

    def has(self, file: File, *perms: str) -> bool:
        if file.private:
            return True
        label, tclass = self.labels[file.kind]
        return bool(self.policy.allowed(self.domain, label, tclass, perms))

    def self_has(self, perm: str) -> bool:
        return bool(self.policy.allowed(self.domain, self.domain, "process", (perm,)))

    def open(self, file: File) -> bool:
        if file.kind == "anonsec":
            return self.has(file, "create")
        if file.kind == "memfd" or file.private:
            return True
        perms = ["read"] + ["write"] * file.writable
        if self.policy.has_policycap("open_perms"):
            perms.append("open")
        return self.has(file, *perms)

    def mmap_file(self, file: File | None, prot: int, sharing: str) -> bool:
        if file is not None and not self.has(file, "map"):
            return False
        return self.map_prot(file, prot, sharing == "shar")

    def map_prot(self, file: File | None, prot: int, shared: bool) -> bool:
        writes_private = not shared and bool(prot & WRITE)
        if (
            prot & EXEC
            and (file is None or file.private or writes_private)
            and not self.self_has("execmem")
        ):
            return False
        if file is None:
            return True
        perms = ["read"]
        if shared and prot & WRITE:
            perms.append("write")
        if prot & EXEC:
            perms.append("execute")
        return self.has(file, *perms)

    def file_mprotect(self, vma: Vma, prot: int) -> bool:
        modified = prot & EXEC and not vma.prot & EXEC and vma.anon_vma
        if modified and vma.file is not None and not self.has(vma.file, "execmod"):
            return False
        return self.map_prot(vma.file, prot, vma.shared)


@pytest.mark.parametrize("domain", [KERNEL, LOADER, WEAK])
def test_open_mmap_and_mprotect_are_answered_as_the_kernel_did(
    policy: SELinuxPolicy, truth: Truth, domain: str
) -> None:
    hooks = Hooks(policy, domain)
    wrong: list[tuple[Row, object]] = []
    for row in truth.of_domain(domain):
        answer = replay(row, hooks)
        if answer != (row.open_answer, row.mmap, row.mprotect):
            wrong.append((row, answer))
    assert not wrong


def _ioctl(policy: SELinuxPolicy, domain: str, cmd: int) -> str:
    return "." if policy.allowed_ioctl(domain, DEVICE, "chr_file", cmd) else "A"


def test_probes_are_answered_as_the_kernel_did(policy: SELinuxPolicy, truth: Truth) -> None:
    for probe in truth.probes:
        hooks = Hooks(policy, probe.domain)
        for name in ("execheap", "execstack"):
            key = {"execheap": "heap_mprotect_rx", "execstack": "stack_mprotect_rwx"}[name]
            # Before X is granted to the heap or stack, they are memory without a file.
            granted = hooks.self_has(name) and hooks.self_has("execmem")
            assert probe.answers[key] == ("." if granted else "A"), (probe.domain, name)
        for key, cmd in (
            ("ioctl_a400", 0xA400),
            ("ioctl_a402", 0xA402),
            ("ioctl_a403", 0xA403),
            ("FIOCLEX", 0x5451),  # the policy has no ioctl_skip_cloexec
        ):
            assert probe.answers[key] == _ioctl(policy, probe.domain, cmd), (probe.domain, key)
    assert not policy.has_policycap("ioctl_skip_cloexec")


def _denial_of(policy: SELinuxPolicy, fields: dict[str, str], perms: tuple[str, ...]) -> Decision:
    if "ioctlcmd" in fields:
        cmd = int(fields["ioctlcmd"], 16)
        return policy.allowed_ioctl(fields["scontext"], fields["tcontext"], fields["tclass"], cmd)
    return policy.allowed(fields["scontext"], fields["tcontext"], fields["tclass"], perms)


def test_what_the_kernel_logged_is_denied_and_logged(policy: SELinuxPolicy, truth: Truth) -> None:
    for line in truth.audit:
        decision = _denial_of(policy, line.fields, tuple(line.perms))
        assert decision.denied == decision.audit == frozenset(line.perms), line.text
        assert not decision


def test_dontaudit_denies_in_silence(policy: SELinuxPolicy, truth: Truth) -> None:
    decision = policy.allowed(WEAK, DATA, "file", ("read", "write"))
    assert decision.granted == {"read"}
    assert decision.denied == {"write"}
    assert decision.audit == frozenset()
    # and the kernel logged no such line, though weak_t was denied it in six rows
    assert any(row.open_answer == "A" for row in truth.of_domain(WEAK) if row.kind == "file")
    assert not any(
        "write" in line.perms and line.fields["tcontext"] == DATA for line in truth.audit
    )


def test_in_process_compiler_writes_what_secilc_writes(tmp_path: Path) -> None:
    secilc = shutil.which("secilc")
    if secilc is None:
        pytest.skip("no secilc here; to run it: apt-get install secilc")
    output = tmp_path / "policy.33"
    version = "33"
    subprocess.run(
        [secilc, "-M", "true", "-c", version, "-o", output, "-f", os.devnull, CIL], check=True
    )
    image, _ = compile_cil([(CIL.name, CIL.read_bytes())], "tiny")
    assert image == output.read_bytes()


def test_a_compiled_policy_decides_as_its_source(policy: SELinuxPolicy, tmp_path: Path) -> None:
    path = tmp_path / "policy.33"
    path.write_bytes(policy.image)
    compiled = SELinuxPolicy.load(str(path))
    perms = ("read", "write", "execute", "execmod", "map", "ioctl")
    for domain in (KERNEL, LOADER, WEAK):
        for label in (DEVICE, DATA):
            one = policy.allowed(domain, label, "chr_file", perms)
            two = compiled.allowed(domain, label, "chr_file", perms)
            assert (one.granted, one.audit) == (two.granted, two.audit)
    compiled.close()


def test_two_policies_at_once_do_not_disturb_each_other() -> None:
    execmod = ("execmod",)
    one = SELinuxPolicy.load(str(CIL))
    two = SELinuxPolicy.load(str(CIL), booleans={"sgx_execmod": True})
    # Different SID numbers for the same contexts: a shared SID table would mix them up.
    two.sid(DATA)
    two.sid(WEAK)
    for _ in range(2):
        assert not one.allowed(LOADER, DEVICE, "chr_file", execmod)
        assert two.allowed(LOADER, DEVICE, "chr_file", execmod)
    assert one.booleans() == {"sgx_execmod": False}
    assert two.booleans() == {"sgx_execmod": True}
    one.set_booleans({"sgx_execmod": True})
    two.set_booleans({"sgx_execmod": False})
    assert one.allowed(LOADER, DEVICE, "chr_file", execmod)
    assert not two.allowed(LOADER, DEVICE, "chr_file", execmod)
    one.close()
    two.close()


def test_threads_may_ask_together(policy: SELinuxPolicy) -> None:
    # ctypes drops the GIL, libsepol has no locks: without ours this crashes the process.
    fresh = SELinuxPolicy(policy.image, "threads")
    contexts = [f"system_u:object_r:{name}_t:s0" for name in ("data", "base", "pol", "weak")]
    wrong: list[str] = []

    def ask(number: int) -> None:
        for count in range(300):
            label = contexts[(number + count) % len(contexts)]
            perms = ("read", f"name{number}_{count}")
            if fresh.allowed(KERNEL, label, "file", perms).denied:
                wrong.append(label)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fresh.close()
    assert not wrong


def test_permissive_policy_and_permissive_domain_let_denials_through() -> None:
    question = (WEAK, DEVICE, "chr_file", ("read", "write"))
    loose = SELinuxPolicy.load(str(CIL), enforcing=False)
    decision = loose.allowed(*question)
    assert decision
    assert decision.permissive
    assert decision.denied == decision.audit == {"write"}
    loose.enforcing = True
    assert not loose.allowed(*question)
    loose.close()
    domain = SELinuxPolicy.from_cil(CIL.read_text() + "(typepermissive weak_t)")
    decision = domain.allowed(*question)
    assert decision
    assert decision.permissive
    assert not domain.allowed(LOADER, DEVICE, "chr_file", ("execmod",))
    domain.close()


@pytest.mark.parametrize(("handle", "granted"), [("allow", True), ("deny", False)])
def test_unknown_classes_and_permissions_go_by_handle_unknown(handle: str, granted: bool) -> None:
    text = CIL.read_text().replace("(handleunknown allow)", f"(handleunknown {handle})")
    policy = SELinuxPolicy.from_cil(text)
    assert bool(policy.allowed(LOADER, LOADER, "io_uring", ("sqpoll",))) is granted
    assert bool(policy.allowed(LOADER, DEVICE, "chr_file", ("not_a_permission",))) is granted
    assert not policy.allowed(LOADER, DEVICE, "chr_file", ("execmod",))
    policy.close()


def test_xperms_of_any_kind_deny_what_is_not_listed() -> None:
    # Linux 6.1 services_compute_xperms_drivers(): xperms->len = 1 whatever the rule's kind.
    policy = SELinuxPolicy.from_cil(
        CIL.read_text() + "(dontauditx weak_t sgx_enclave_device_t (ioctl chr_file (0xa401)))"
    )
    silent = policy.allowed_ioctl(WEAK, DEVICE, "chr_file", 0xC008A401)
    logged = policy.allowed_ioctl(WEAK, DEVICE, "chr_file", 0xA402)
    assert not silent
    assert silent.audit == frozenset()
    assert not logged
    assert logged.audit == {"ioctl"}
    assert policy.allowed(WEAK, DEVICE, "chr_file", ("ioctl",))
    policy.close()


def test_conditional_xperms_and_auditallow_follow_their_boolean() -> None:
    policy = SELinuxPolicy.from_cil(
        CIL.read_text()
        + "(auditallow loader_t data_t (file (read)))"
        + "(auditallow loader_t sgx_enclave_device_t (chr_file (ioctl)))"
        + "(auditallowx loader_t sgx_enclave_device_t (ioctl chr_file (0xa401)))"
    )
    assert policy.allowed(LOADER, DATA, "file", ("read", "map")).audit_granted == {"read"}
    assert policy.allowed_ioctl(LOADER, DEVICE, "chr_file", 0xA401).audit_granted == {"ioctl"}
    assert policy.allowed_ioctl(LOADER, DEVICE, "chr_file", 0xA400).audit_granted == frozenset()
    policy.close()


def test_transitions() -> None:
    text = CIL.read_text() + (
        "(typetransition loader_t base_t process weak_t)"
        "(typetransition loader_t base_t file data_t)"
        '(typetransition loader_t base_t file "secret" pol_t)'
        "(boolean label_it true)"
        "(booleanif label_it (true (typetransition weak_t base_t file data_t)))"
        "(role extra_r) (roletype extra_r weak_t) (userrole system_u extra_r)"
        "(roletransition system_r data_t process extra_r)"
    )
    policy = SELinuxPolicy.from_cil(text)
    base = "system_u:object_r:base_t:s0"
    assert policy.transition(LOADER, base, "process") == WEAK
    assert policy.transition(KERNEL, base, "process") == KERNEL
    assert policy.transition(LOADER, base, "file") == DATA
    assert policy.transition(LOADER, base, "file", "secret") == "system_u:object_r:pol_t:s0"
    assert policy.transition(LOADER, base, "file", "other") == DATA
    assert policy.transition(LOADER, base, "dir") == base
    assert policy.transition(WEAK, base, "file") == DATA
    assert policy.transition(WEAK, DATA, "process") == "system_u:extra_r:weak_t:s0"
    policy.set_booleans({"label_it": False})
    assert policy.transition(WEAK, base, "file") == base
    # As the kernel labelled them: the AVC lines of the truth.
    assert policy.anon_inode_context(LOADER, "[sgx_segment]").split(":")[2] == "sgx_segment_t"
    assert policy.anon_inode_context(LOADER, "[other]") == "system_u:object_r:loader_t:s0"
    assert policy.anon_inode_context(WEAK, "[sgx_segment]") == "system_u:object_r:weak_t:s0"
    policy.close()


def test_ranges_and_class_defaults_of_new_objects() -> None:
    text = (
        CIL.read_text()
        .replace(
            "(category c0) (categoryorder (c0))",
            "(category c0) (category c1) (category c2) (categoryorder (c0 c1 c2))",
        )
        .replace("(sensitivitycategory s0 (c0))", "(sensitivitycategory s0 (c0 c1 c2))")
        .replace("(userrange system_u ((s0)(s0)))", "(userrange system_u ((s0)(s0 (c0 c1 c2))))")
        + "(rangetransition loader_t base_t process ((s0)(s0 (c0 c1 c2))))"
        "(defaultrange dir target low-high)(defaultrange lnk_file source low-high)"
        "(defaulttype fifo_file source)(defaultrole fifo_file source)"
    )
    policy = SELinuxPolicy.from_cil(text)
    wide = LOADER + "-s0:c0.c2"
    base = "system_u:object_r:base_t:s0"
    assert policy.transition(LOADER, base, "process") == wide
    assert policy.transition(wide, base, "file") == base
    assert policy.transition(LOADER, base + ":c0", "dir") == base + ":c0"
    assert policy.transition(wide, base, "lnk_file") == base + "-s0:c0.c2"
    assert policy.transition(LOADER, base, "fifo_file") == LOADER
    assert policy.canonical(LOADER + "-s0:c0,c1,c2") == wide
    policy.close()


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"(allow nobody nothing (file (read)))", "bad.cil", "does not compile"),
        (b"(((", "open.cil", "parenthesis"),
        (b"not a policy at all, but long enough to be one", "policy.33", "not a compiled SELinux"),
        (b"\x8d\xff\x7c\xf9" + bytes(40), "module.pp", "a policy module"),
    ],
)
def test_bad_policies_are_one_clear_line(
    tmp_path: Path, content: bytes, name: str, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        SELinuxPolicy.load(str(path))
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_policy_is_refused_and_the_library_still_decides(policy: SELinuxPolicy) -> None:
    for length in (40, 100, 2000, len(policy.image) - 4):
        with pytest.raises(UsageError):
            SELinuxPolicy(policy.image[:length], "cut")
    again = SELinuxPolicy(policy.image, "whole")
    assert again.allowed(LOADER, DEVICE, "chr_file", ("read",))
    again.close()


def test_unknown_names_of_the_user_are_usage_errors(policy: SELinuxPolicy, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a context of this policy: user:role:type:s0"):
        policy.allowed("user:role:type:s0", DEVICE, "chr_file", ("read",))
    with pytest.raises(UsageError, match="no boolean named 'nonsense'"):
        policy.set_booleans({"nonsense": True})
    with pytest.raises(UsageError, match="cannot read the policy"):
        SELinuxPolicy.load(str(tmp_path / "missing.33"))
    assert policy.valid(LOADER)
    assert not policy.valid("system_u:object_r:nothing_t:s0")


def test_what_the_text_says() -> None:
    text = PolicyText(
        "(boolean one true)\n(boolean two false)\n(typeattributeset many (a b))\n"
        "(allow a b (file (read)))\n(allow many self (file (write)))\n(allow many b (dir (read)))\n"
        "(booleanif (and one (not two))\n    (true\n        (allow a b (file (open)))\n    )\n"
        "    (false\n        (allow a b (file (map)))\n    )\n)\n"
        "(booleanif two\n    (false\n        (dontaudit a b (file (map)))\n    )\n)\n"
        "(user u)\n"
    )
    assert text.booleans == {"one": True, "two": False}
    lines = {s.line: s.holds(text.booleans) for s in text.matching("allow", "a", "b", "file")}
    assert lines == {
        "(allow a b (file (read)))": True,
        "(allow a b (file (open)))": True,
        "(allow a b (file (map)))": False,
    }
    assert [s.line for s in text.matching("allow", "b", "b", "file")] == [
        "(allow many self (file (write)))"
    ]
    (silent,) = text.matching("dontaudit", "a", "b", "file")
    assert silent.holds(text.booleans)
    assert not silent.holds({"two": True})
    assert [s.branch for s in text.statements("user")] == [None]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(yes)", True),
        ("(not yes)", False),
        ("(and yes no)", False),
        ("(or no yes)", True),
        ("(xor yes yes)", False),
        ("(eq no no)", True),
        ("(neq yes (not yes))", True),
    ],
)
def test_boolean_expressions(expression: str, value: bool) -> None:
    assert evaluate(parse(expression), {"yes": True, "no": False}) is value


def test_missing_libraries_name_their_packages(
    policy: SELinuxPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_SELINUX", "libselinux.so.404")
    contexts = tmp_path / "file_contexts"
    contexts.write_text("/.*\tsystem_u:object_r:data_t:s0\n")
    with pytest.raises(UnsupportedError, match="install the package libselinux1"):
        PathLabels(policy, file_contexts=str(contexts))
    monkeypatch.setattr(native, "_SEPOL", "libsepol.so.404")
    monkeypatch.setattr(native, "_first", None)
    with pytest.raises(UnsupportedError, match="install the package libsepol2"):
        SELinuxPolicy.from_cil(CIL.read_text())
