"""The policy that softsgx ships, the labels of paths, and the explanations of decisions."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from softsgx.errors import UsageError
from softsgx.policy.labels import PathLabels
from softsgx.policy.selinux import MINIMAL, SELinuxPolicy
from softsgx.policy.why import why
from tests.truthrows import TRUTH

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None or ctypes.util.find_library("selinux") is None,
    reason="no libsepol.so.2 or libselinux.so.1; to run it: apt-get install libsepol2 libselinux1",
)

UNCONFINED, LOADER, GENERATOR, BYSTANDER = (
    f"system_u:system_r:{name}_t:s0" for name in ("unconfined", "loader", "generator", "bystander")
)
DEVICE = "system_u:object_r:sgx_enclave_device_t:s0"
PROVISION = "system_u:object_r:sgx_provision_device_t:s0"
DATA = "system_u:object_r:data_t:s0"

# What this program prints is what setools, which reads the policy by itself, takes from it.
_SETOOLS = """
import json, sys
import setools
policy = setools.SELinuxPolicy(sys.argv[1])
values = {b.name: b.state for b in policy.bools()} if hasattr(policy, "bools") else {}
allow, transitions = {}, []
for rule in policy.terules():
    name = rule.ruletype.name
    if name not in ("allow", "allowxperm", "type_transition"):
        continue
    try:
        if not rule.enabled(**values):
            continue
    except setools.exception.RuleNotConditional:
        pass
    for each in rule.expand():
        key = f"{each.source} {each.target} {each.tclass}"
        if name == "allow":
            allow.setdefault(key, set()).update(each.perms)
        elif name == "type_transition":
            try:
                file = each.filename
            except setools.exception.TERuleNoFilename:
                file = None
            transitions.append([str(each.source), str(each.target), str(each.tclass), file,
                                str(each.default)])
        else:
            allow.setdefault(key + " x", set()).update(int(p) for p in each.perms)
json.dump({"allow": {k: sorted(v) for k, v in allow.items()}, "transitions": transitions},
          sys.stdout)
"""


@pytest.fixture(scope="module")
def policy() -> Iterator[SELinuxPolicy]:
    loaded = SELinuxPolicy.load(MINIMAL)
    yield loaded
    loaded.close()


def _context(name: str) -> str:
    role = (
        "system_r"
        if name in {"kernel_t", "unconfined_t", "loader_t", "generator_t", "bystander_t"}
        else "object_r"
    )
    return f"system_u:{role}:{name}:s0"


def test_engine_and_setools_read_the_same_policy(policy: SELinuxPolicy, tmp_path: Path) -> None:
    python = "/usr/bin/python3"
    probe = [python, "-c", "import setools"]
    if (
        not os.path.exists(python)
        or subprocess.run(probe, capture_output=True, check=False).returncode
    ):
        pytest.skip("no setools here; to run it: apt-get install python3-setools")
    path = tmp_path / "policy.33"
    path.write_bytes(policy.image)
    done = subprocess.run(
        [python, "-c", _SETOOLS, path], capture_output=True, check=True, text=True
    )
    theirs = json.loads(done.stdout)
    types = [item.line[len("(type ") : -1] for item in policy.text.statements("type")]
    classes = {key.split()[2] for key in theirs["allow"]}
    perms = {
        tclass: sorted(
            {
                p
                for k, v in theirs["allow"].items()
                if k.split()[2] == tclass
                for p in v
                if isinstance(p, str)
            }
        )
        for tclass in classes
    }
    assert len(types) > 20
    questions = 0
    for source in types:
        for target in types:
            for tclass in sorted(classes):
                expected = set(theirs["allow"].get(f"{source} {target} {tclass}", ()))
                decision = policy.allowed(_context(source), _context(target), tclass, perms[tclass])
                assert decision.granted == expected, (source, target, tclass)
                questions += 1
    assert questions > 5000
    listed = {key[:-2]: set(value) for key, value in theirs["allow"].items() if key.endswith(" x")}
    assert listed
    for key, commands in listed.items():
        source, target, tclass = key.split()
        for cmd in {0, 0x5401, 0xA3FF, 0xA400, 0xA404, 0xA4FF, 0xA500, *list(commands)[:9]}:
            decision = policy.allowed_ioctl(_context(source), _context(target), tclass, cmd)
            assert bool(decision) == (cmd in commands), (key, hex(cmd))
    assert len(theirs["transitions"]) > 30
    for source, target, tclass, name, result in theirs["transitions"]:
        label = policy.transition(_context(source), _context(target), tclass, name)
        assert label.split(":")[2] == result


@pytest.mark.parametrize(
    ("boolean", "question"),
    [
        ("sgx_loader_write", (LOADER, DEVICE, "chr_file", ("read", "write", "open"))),
        ("sgx_loader_execute", (LOADER, DEVICE, "chr_file", ("execute",))),
        ("sgx_loader_execmod", (LOADER, DEVICE, "chr_file", ("execmod",))),
        ("sgx_loader_execmem", (LOADER, LOADER, "process", ("execmem",))),
        ("sgx_loader_provision", (LOADER, PROVISION, "chr_file", ("read", "open"))),
        ("sgx_loader_exec_data", (LOADER, DATA, "file", ("read", "execute"))),
        (
            "sgx_loader_wx_segment",
            (LOADER, "system_u:object_r:sgx_segment_rwx_t:s0", "anon_inode", ("write", "execute")),
        ),
    ],
)
def test_each_boolean_is_one_permission_and_why_finds_it(
    boolean: str, question: tuple[str, str, str, tuple[str, ...]]
) -> None:
    policy = SELinuxPolicy.load(MINIMAL)
    assert boolean in Path(MINIMAL).read_text().partition("(mls true)")[0]  # it is documented
    before = policy.allowed(*question)
    assert bool(before) == policy.booleans()[boolean]
    if not before:
        reason = why(policy, *question)
        assert reason.booleans == [{boolean: True}]
        assert reason.missing.startswith("allow loader_t ")
    policy.set_booleans({boolean: not policy.booleans()[boolean]})
    after = policy.allowed(*question)
    assert bool(after) != bool(before)
    if not after:
        # Taken away: the same boolean is what would give it back.
        assert why(policy, *question).booleans == [{boolean: True}]
    policy.close()


def test_who_may_do_what_in_the_shipped_policy(policy: SELinuxPolicy) -> None:
    loading = ("read", "write", "open", "map", "execute")
    for domain, expected in (
        (UNCONFINED, True),
        (LOADER, True),
        (GENERATOR, True),
        (BYSTANDER, False),
    ):
        assert bool(policy.allowed(domain, DEVICE, "chr_file", loading)) is expected
        assert bool(policy.allowed_ioctl(domain, DEVICE, "chr_file", 0xA400)) is expected
    # The thread's question: an unmodified file's enclave, or one generated on the fly?
    modified = ("execmod",)
    assert not policy.allowed(LOADER, DEVICE, "chr_file", modified)
    assert policy.allowed(GENERATOR, DEVICE, "chr_file", modified)
    for letters, expected in (
        ("rx", True),
        ("rw", True),
        ("r", True),
        ("wx", False),
        ("rwx", False),
    ):
        label = policy.anon_inode_context(LOADER, f"[sgx_segment_{letters}]")
        assert label == f"system_u:object_r:sgx_segment_{letters}_t:s0"
        assert bool(policy.allowed(LOADER, label, "anon_inode", ("create", "map"))) is expected
    assert policy.transition(UNCONFINED, "system_u:object_r:loader_exec_t:s0", "process") == LOADER
    for cap in ("open_perms", "ioctl_skip_cloexec"):
        assert policy.has_policycap(cap)


@pytest.mark.parametrize(
    ("path", "mode", "name"),
    [
        ("/dev/sgx_enclave", None, "sgx_enclave_device_t"),
        ("/dev/sgx/enclave", None, "sgx_enclave_device_t"),
        ("/dev/sgx_provision", None, "sgx_provision_device_t"),
        ("/dev/sgx_vepc", stat.S_IFCHR, "sgx_vepc_device_t"),
        ("/dev/zero", stat.S_IFCHR, "zero_device_t"),
        ("/dev/null", stat.S_IFCHR, "device_t"),
        ("/no/such/enclave.so", None, "file_t"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", stat.S_IFREG, "file_t"),
    ],
)
def test_labels_by_the_policys_own_file_contexts(
    policy: SELinuxPolicy, path: str, mode: int | None, name: str
) -> None:
    labels = PathLabels(policy, xattrs=False)
    assert labels.label_for_path(path, mode) == f"system_u:object_r:{name}:s0"
    labels.close()


def test_labels_by_file_attribute_and_option(policy: SELinuxPolicy, tmp_path: Path) -> None:
    contexts = tmp_path / "file_contexts"
    contexts.write_text(
        f"{tmp_path}(/.*)?\tsystem_u:object_r:data_t:s0\n"
        "/opt/.*\\.so\t--\tsystem_u:object_r:loader_exec_t:s0\n"
        "/opt/wrong\tsystem_u:object_r:not_a_type_t:s0\n"
    )
    given = {str(tmp_path / "named"): "system_u:object_r:tmpfs_t:s0"}
    labels = PathLabels(policy, file_contexts=str(contexts), labels=given)
    assert labels.label_for_path(str(tmp_path / "named")) == "system_u:object_r:tmpfs_t:s0"
    assert labels.label_for_path(str(tmp_path / "other")) == DATA
    assert labels.label_for_path("/opt/a/b.so") == "system_u:object_r:loader_exec_t:s0"
    # nothing said, or something the policy does not know: the kernel's label for no label
    assert labels.label_for_path("/opt/wrong") == "system_u:object_r:file_t:s0"
    assert labels.label_for_path("/elsewhere") == "system_u:object_r:file_t:s0"
    assert labels.label_for_path("/dev/sgx_enclave") == DEVICE
    file = tmp_path / "with-attribute"
    file.touch()
    try:
        os.setxattr(file, "security.selinux", b"system_u:object_r:loader_exec_t:s0\0")
    except OSError:
        pass  # not root, or a file system without attributes
    else:
        assert labels.label_for_path(str(file)) == "system_u:object_r:loader_exec_t:s0"
        os.setxattr(file, "security.selinux", b"someone:elses:policy_t:s0\0")
        assert labels.label_for_path(str(file)) == DATA
    labels.close()
    with pytest.raises(UsageError, match="not a context of"):
        PathLabels(policy, labels={"/x": "nonsense"})
    with pytest.raises(UsageError, match="no such file of file contexts"):
        PathLabels(policy, file_contexts=str(tmp_path / "missing"))


def test_device_labels_without_any_file_contexts() -> None:
    tiny = SELinuxPolicy.load(str(TRUTH / "selinux-tiny.cil"))
    labels = PathLabels(tiny, xattrs=False)
    assert labels.label_for_path("/dev/sgx_enclave") == DEVICE
    assert labels.label_for_path("/dev/zero") == "system_u:object_r:zero_device_t:s0"
    assert labels.label_for_path("/bin/ls") == "system_u:object_r:base_t:s0"
    labels.close()
    tiny.close()


def test_why_names_rules_ioctls_and_unknown_permissions(policy: SELinuxPolicy) -> None:
    granted = why(policy, LOADER, DEVICE, "chr_file", ("read", "execute"))
    rule = "(allow loader_t sgx_enclave_device_t (chr_file ({})))"
    assert granted.lines() == [
        f"read: granted by {rule.format('ioctl read getattr map open')}",
        f"execute: granted by {rule.format('execute')}, while sgx_loader_execute",
    ]
    ioctl = why(policy, LOADER, DEVICE, "chr_file", ("ioctl",), cmd=0x5401)
    assert ioctl.denied == ["ioctl"]
    assert ioctl.missing == "allowxperm loader_t sgx_enclave_device_t:chr_file ioctl 0x5401;"
    assert why(policy, LOADER, DEVICE, "chr_file", ("ioctl",), cmd=0xA400).denied == []
    both = why(policy, LOADER, LOADER, "process", ("execmem", "execheap"))
    assert both.missing == "allow loader_t self:process { execheap execmem };"
    assert both.booleans == []  # one of the two has no boolean
    unknown = why(policy, LOADER, LOADER, "io_uring", ("sqpoll",))
    assert unknown.granted == [("sqpoll", "handle_unknown (not in the policy)", "")]


def test_why_names_constraints_and_roles() -> None:
    text = Path(MINIMAL).read_text() + (
        "(constrain (chr_file (write)) (neq t1 loader_t))"
        "(role other_r) (roletype other_r loader_t) (userrole system_u other_r)"
    )
    policy = SELinuxPolicy.from_cil(text)
    constrained = why(policy, LOADER, DEVICE, "chr_file", ("write",))
    assert constrained.denied == ["write"]
    assert constrained.missing == ""
    assert "constraint" in constrained.obstacles[0]
    assert "loader_t" in constrained.obstacles[0]
    roles = why(policy, UNCONFINED, "system_u:other_r:loader_t:s0", "process", ("transition",))
    assert roles.denied == ["transition"]
    assert any("roles deny it" in line for line in roles.lines())
    policy.close()


def test_the_shipped_policy_compiles_with_secilc_too(policy: SELinuxPolicy, tmp_path: Path) -> None:
    secilc = shutil.which("secilc")
    if secilc is None:
        pytest.skip("no secilc here; to run it: apt-get install secilc")
    output, contexts = tmp_path / "policy.33", tmp_path / "file_contexts"
    subprocess.run(
        [secilc, "-M", "true", "-c", "33", "-o", output, "-f", contexts, MINIMAL], check=True
    )
    assert output.read_bytes() == policy.image
    assert contexts.read_bytes() == policy.file_contexts
