"""Real loaders under real policies: what is denied, where it shows, and what would allow it."""

from __future__ import annotations

import ctypes.util
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.policy.selinux import MINIMAL, SELinuxPolicy
from tests.command import Softsgx
from tests.debian_policy import find_policy

_SBIN = "/usr/bin:/bin:/usr/sbin:/sbin"
pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or ctypes.util.find_library("selinux") is None
    or shutil.which("apparmor_parser", path=_SBIN) is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1 apparmor",
)

Guest = Callable[[str], Path]
LOADER = ("--selinux", "minimal", "--context", "loader_t", "--boolean", "sgx_loader_provision=on")
NO_EXECUTE = (*LOADER, "--boolean", "sgx_loader_execute=off")

PROFILE = """abi <abi/3.0>,
profile loader {{
  /dev/sgx_enclave {enclave},
  /dev/sgx_provision r,
}}
profile other {flags} {{
  /dev/sgx_enclave r,
}}
"""


def _lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return done.stdout.splitlines()


def _passes(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok ecall" in _lines(done)
    assert "not ok" not in done.stdout


def _audit(path: Path) -> list[dict[str, str]]:
    """The fields of each audit line, with its permissions."""
    found = []
    for line in path.read_text().splitlines():
        fields = dict(re.findall(r"(\w+)=(\"[^\"]*\"|\S+)", line))
        perms = re.search(r"avc:  (\w+)  \{ (.*) \} for", line)
        if perms:
            fields["verdict"], fields["perms"] = perms.groups()
        found.append({name: value.strip('"') for name, value in fields.items()})
    return found


def test_a_loader_with_its_permissions_runs(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    _passes(softsgx(*LOADER, "--audit", audit, "--", guest("intel_like")))
    assert audit.read_text() == ""


def test_without_execute_the_first_executable_mapping_is_denied(
    guest: Guest, softsgx: Softsgx, tmp_path: Path
) -> None:
    audit, record = tmp_path / "audit", tmp_path / "run"
    done = softsgx(*NO_EXECUTE, "--audit", audit, "--record", record, "--", guest("intel_like"))
    assert "not ok map: Permission denied" in _lines(done)
    assert done.returncode == 1
    (line,) = _audit(audit)
    assert (
        line.items()
        >= {
            "verdict": "denied",
            "perms": "execute",
            "comm": "intel_like",
            "path": "/dev/sgx_enclave",
            "scontext": "system_u:system_r:loader_t:s0",
            "tcontext": "system_u:object_r:sgx_enclave_device_t:s0",
            "tclass": "chr_file",
            "permissive": "0",
        }.items()
    )
    shown = softsgx.command("show", record).stdout
    assert "LSM file_mprotect(reqprot=RX, prot=RX): denied, EACCES" in shown
    assert "= -1 EACCES (LSM file_mprotect" in shown


def test_audit2allow_reads_the_denial(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    if shutil.which("audit2allow") is None:
        pytest.skip("no audit2allow; to run it: apt-get install policycoreutils-python-utils")
    audit, compiled = tmp_path / "audit", tmp_path / "policy.33"
    softsgx(*NO_EXECUTE, "--audit", audit, "--", guest("intel_like"))
    policy = SELinuxPolicy.load(MINIMAL)
    compiled.write_bytes(policy.image)
    policy.close()
    done = subprocess.run(
        ["audit2allow", "-p", compiled, "-i", audit], capture_output=True, text=True, check=True
    )
    assert "allow loader_t sgx_enclave_device_t:chr_file execute;" in done.stdout


def test_permissive_logs_and_lets_through(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    _passes(softsgx(*NO_EXECUTE, "--permissive", "--audit", audit, "--", guest("intel_like")))
    assert [(line["perms"], line["permissive"]) for line in _audit(audit)] == [("execute", "1")]


def test_permissive_logs_what_a_kernel_logs(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    """Dozens of denials, of which avc_denied() grants and so logs each permission once."""
    audit, record = tmp_path / "audit", tmp_path / "run"
    who = ("--selinux", "minimal", "--context", "bystander_t", "--permissive")
    _passes(softsgx(*who, "--audit", audit, "--record", record, "--", guest("intel_like")))
    lines = [(line["tcontext"].split(":")[2], line["perms"]) for line in _audit(audit)]
    enclave, provision = "sgx_enclave_device_t", "sgx_provision_device_t"
    assert sorted(lines) == [
        (enclave, "execute"), (enclave, "ioctl"), (enclave, "map"), (enclave, "open"),
        (enclave, "read write"), (provision, "open"), (provision, "read"),
    ]  # fmt: skip
    # The recording has each question, and so has what is made of it.
    times = re.findall(r"asked (\d+) times", softsgx.command("explain", "--denied", record).stdout)
    assert sum(map(int, times)) > 20


@pytest.mark.parametrize(
    ("options", "failure", "perms"),
    [
        (("--context", "bystander_t"), "not ok open", "read write"),
        (("--context", "loader_t", "--boolean", "sgx_loader_write=off"), "not ok open", "write"),
        (("--context", "loader_t"), "provision # SKIP", "read"),
    ],
)
def test_opening_a_device_is_asked_about(
    options: tuple[str, ...],
    failure: str,
    perms: str,
    guest: Guest,
    softsgx: Softsgx,
    tmp_path: Path,
) -> None:
    audit = tmp_path / "audit"
    done = softsgx("--selinux", "minimal", *options, "--audit", audit, "--", guest("intel_like"))
    assert failure in done.stdout
    first = _audit(audit)[0]
    # may_open() asks by the name, before the file is there.
    assert first["perms"] == perms
    assert first["name"] == ("sgx_provision" if "provision" in failure else "sgx_enclave")
    assert "path" not in first


def test_contexts_by_program_and_by_the_policys_transitions(
    guest: Guest, softsgx: Softsgx, tmp_path: Path
) -> None:
    program = guest("intel_like")
    contexts = tmp_path / "file_contexts"
    contexts.write_text(
        f"{re.escape(str(program))}\tsystem_u:object_r:loader_exec_t:s0\n"
        "/dev/sgx_.*\tsystem_u:object_r:sgx_enclave_device_t:s0\n"
    )
    deny = ("--selinux", "minimal", "--boolean", "sgx_loader_execute=off")
    audit = tmp_path / "audit"
    for options in (
        ("--context", "unconfined_t", "--context", f"{program}=loader_t"),
        ("--context", "unconfined_t", "--file-contexts", contexts),
    ):
        audit.unlink(missing_ok=True)
        # By way of a shell: its exec of the program is what changes the context.
        done = softsgx(*deny, *options, "--audit", audit, "--", "/bin/sh", "-c", f"{program}; true")
        assert "not ok map: Permission denied" in _lines(done)
        assert _audit(audit)[-1]["scontext"] == "system_u:system_r:loader_t:s0"
    # Started so, not executed from there: as runcon does.
    _passes(softsgx(*deny, *options, "--", program))


def test_apparmor_profiles_by_program(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    program, audit, record = guest("intel_like"), tmp_path / "audit", tmp_path / "run"
    profile = tmp_path / "profile"
    profile.write_text(PROFILE.format(enclave="rwm", flags=""))
    shell = ("--", "/bin/sh", "-c", f"{program}; true")
    rules: tuple[str, ...]
    for name, rules, said in (
        ("loader", (), "ok ecall"),
        ("loader", (f"{program}=other",), "not ok open"),
        ("other", (f"{program}=loader",), "ok ecall"),
        ("other", (f"{program}=unconfined",), "ok ecall"),
        ("other", ("/bin/true=loader",), "not ok open"),
    ):
        audit.unlink(missing_ok=True)
        options = [f"--profile={rule}" for rule in rules]
        done = softsgx(
            "--apparmor", f"{profile}:{name}", *options, "--audit", audit, "--record", record,
            *shell,
        )  # fmt: skip
        assert any(line.startswith(said) for line in _lines(done)), (name, rules, done.stdout)
        asked = {line["profile"] for line in _audit(audit)}
        assert asked == ({"other"} if said == "not ok open" else set()), (name, rules)
    # Without a name the program that is started has the rule's, as any other would.
    _passes(softsgx("--apparmor", profile, f"--profile={program}=loader", "--", program))
    assert f'"rules":{{"{program}":"other"}}' in record.read_text()


def test_a_descriptor_from_another_process_is_asked_about_again(
    guest: Guest, softsgx: Softsgx, tmp_path: Path
) -> None:
    contexts, audit = tmp_path / "file_contexts", tmp_path / "audit"
    program = guest("share")
    contexts.write_text(
        f"{re.escape(str(program))}\tsystem_u:object_r:loader_exec_t:s0\n"
        "/dev/sgx_enclave\tsystem_u:object_r:sgx_enclave_device_t:s0\n"
    )
    # unconfined_t opens the device; the program that it executes runs as loader_t.
    options = ("--selinux", "minimal", "--context", "unconfined_t", "--file-contexts", contexts)
    whole = softsgx(*options, "--audit", audit, "--", program)
    assert whole.returncode == 0, whole.stdout
    assert audit.read_text() == ""
    done = softsgx(
        *options, "--boolean", "sgx_loader_write=off", "--audit", audit, "--", program
    )  # fmt: skip
    assert "not ok other_maps: segment 0: Permission denied" in _lines(done)
    (line,) = _audit(audit)
    assert line["scontext"] == "system_u:system_r:loader_t:s0"
    assert (line["perms"], line["tclass"]) == ("write", "chr_file")
    # Without fd:use on who opened it, already that is denied.
    module = tmp_path / "no_use.cil"
    text = Path(MINIMAL).read_text().replace("(allow domain domain (fd (use)))", "")
    module.write_text(text)
    audit.unlink()
    confined = ("--selinux", module, "--context", "unconfined_t", "--file-contexts", contexts)
    softsgx(*confined, "--audit", audit, "--", program)
    (line,) = _audit(audit)
    assert (line["perms"], line["tclass"]) == ("use", "fd")
    assert line["tcontext"] == "system_u:system_r:unconfined_t:s0"


_SOURCES = (
    "anon_rw", "anon_rwx", "anon_rx", "shared_anon_rx", "heap_rx", "file_r", "file_rx",
    "file_rwx", "file_written_rx", "memfd_rx",
)  # fmt: skip


@pytest.mark.parametrize(
    ("booleans", "refused", "perms"),
    [
        (
            (),
            {"anon_rwx", "anon_rx", "shared_anon_rx", "heap_rx", "file_rwx", "file_written_rx"},
            {"execmem", "execheap", "execmod"},
        ),
        (("sgx_loader_execmem",), {"heap_rx", "file_written_rx"}, {"execheap", "execmod"}),
        (
            ("sgx_loader_execmod",),
            {"anon_rwx", "anon_rx", "shared_anon_rx", "heap_rx", "file_rwx"},
            {"execmem", "execheap"},
        ),
    ],
)
def test_an_executable_source_is_asked_about(
    booleans: tuple[str, ...],
    refused: set[str],
    perms: set[str],
    guest: Guest,
    softsgx: Softsgx,
    tmp_path: Path,
) -> None:
    audit = tmp_path / "audit"
    options = [arg for name in booleans for arg in ("--boolean", f"{name}=on")]
    done = softsgx(*LOADER, *options, "--audit", audit, "--", guest("sources"))
    answers = dict(line.split() for line in _lines(done))
    assert answers == {name: "13" if name in refused else "0" for name in _SOURCES}
    assert {line["perms"] for line in _audit(audit)} == perms
    assert len(_audit(audit)) == len(refused)


def test_the_type_of_a_source_file_counts(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    file, contexts, audit = tmp_path / "enclave.so", tmp_path / "contexts", tmp_path / "audit"
    file.write_bytes(bytes(4096))
    contexts.write_text(
        f"{tmp_path}/.*\tsystem_u:object_r:data_t:s0\n"
        "/dev/sgx_enclave\tsystem_u:object_r:sgx_enclave_device_t:s0\n"
    )
    run = (*LOADER, "--file-contexts", contexts, "--audit", audit)
    answers = dict(line.split() for line in _lines(softsgx(*run, "--", guest("sources"), file)))
    assert (answers["file_r"], answers["file_rx"]) == ("0", "13")
    denied = [line for line in _audit(audit) if line.get("path") == str(file)]
    assert [(line["perms"], line["tclass"]) for line in denied[:1]] == [("execute", "file")]
    on = ("--boolean", "sgx_loader_exec_data=on")
    done = softsgx(*run, *on, "--", guest("sources"), file)
    answers = dict(line.split() for line in _lines(done))
    assert (answers["file_r"], answers["file_rx"]) == ("0", "0")


def test_explain_and_policy_lead_from_a_denial_to_a_run_that_passes(
    guest: Guest, softsgx: Softsgx, tmp_path: Path
) -> None:
    record, module = tmp_path / "run", tmp_path / "module.cil"
    deny = (*NO_EXECUTE, "--boolean", "sgx_loader_write=off")
    softsgx(*deny, "--permissive", "--record", record, "--", guest("intel_like"))
    said = softsgx.command("explain", "--denied", record)
    assert said.returncode == 0, said.stderr
    lines = [line.strip() for line in _lines(said)]
    assert "missing: allow loader_t sgx_enclave_device_t:chr_file execute;" in lines
    assert "or set: sgx_loader_execute=1" in lines
    assert any("rule mprotect" in line and "in mprotect" in line for line in lines)
    assert not any(line.startswith("granted") for line in lines)
    whole = softsgx.command("explain", record).stdout
    assert "granted by (allow loader_t sgx_enclave_device_t (chr_file (" in whole
    assert ", while sgx_loader_provision" in whole
    written = softsgx.command("policy", record)
    module.write_text(written.stdout)
    rules = [line for line in _lines(written) if not line.startswith(";")]
    assert rules == ["(allow loader_t sgx_enclave_device_t (chr_file (execute write)))"]
    # Compiled in, the same run passes; without either permission it does not.
    _passes(softsgx(*deny, "--selinux", module, "--", guest("intel_like")))
    for perm in ("execute", "write"):
        module.write_text(rules[0].replace("execute write", perm))
        assert softsgx(*deny, "--selinux", module, "--", guest("intel_like")).returncode == 1


def test_ioctls_that_a_policy_lists(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    policy, record, module = (tmp_path / name for name in ("tight.cil", "run", "module.cil"))
    text = Path(MINIMAL).read_text()
    listed = "(allowx loader_t sgx_enclave_device_t (ioctl chr_file ((range 0xa400 0xa4ff))))"
    assert listed in text
    policy.write_text(text.replace(listed, listed.replace("0xa4ff", "0xa401")))
    options = ("--selinux", policy, "--context", "loader_t")
    done = softsgx(*options, "--record", record, "--", guest("intel_like"))
    assert "not ok init" in done.stdout
    said = softsgx.command("explain", "--denied", record).stdout
    assert "allowxperm loader_t sgx_enclave_device_t:chr_file ioctl 0xa402;" in said
    record.unlink()
    softsgx(*options, "--permissive", "--record", record, "--", guest("intel_like"))
    module.write_text(softsgx.command("policy", record).stdout)
    assert "(ioctl chr_file (0xa402 0xa403 0xa405))" in module.read_text()
    _passes(softsgx(*options, "--selinux", module, "--", guest("intel_like")))


def _profile(tmp_path: Path, enclave: str, flags: str = "") -> Path:
    path = tmp_path / "profile"
    path.write_text(PROFILE.format(enclave=enclave, flags=flags))
    return path


def test_an_apparmor_profile_confines(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    audit, record = tmp_path / "audit", tmp_path / "run"
    whole = _profile(tmp_path, "rwm")
    _passes(softsgx("--apparmor", f"{whole}:loader", "--", guest("intel_like")))
    profile = _profile(tmp_path, "rw")
    run = ("--apparmor", f"{profile}:loader", "--audit", audit, "--record", record)
    done = softsgx(*run, "--", guest("intel_like"))
    assert "not ok map: Permission denied" in _lines(done)
    (line,) = _audit(audit)
    assert (
        line.items()
        >= {
            "apparmor": "DENIED",
            "operation": "file_mprotect",
            "profile": "loader",
            "name": "/dev/sgx_enclave",
            "requested_mask": "m",
            "denied_mask": "m",
            "comm": "intel_like",
        }.items()
    )
    said = softsgx.command("explain", "--denied", record).stdout
    assert "missing: /dev/sgx_enclave m," in said
    needed = softsgx.command("policy", record).stdout
    assert "  /dev/sgx_enclave m," in needed.splitlines()
    text = profile.read_text().replace(
        "  /dev/sgx_enclave rw,", f"  /dev/sgx_enclave rw,\n{needed}"
    )
    profile.write_text(text)
    _passes(softsgx("--apparmor", f"{profile}:loader", "--", guest("intel_like")))


def test_a_profile_in_complain_mode_logs(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    profile, audit = _profile(tmp_path, "rwm", "flags=(complain)"), tmp_path / "audit"
    _passes(softsgx("--apparmor", f"{profile}:other", "--audit", audit, "--", guest("intel_like")))
    logged = [(line["apparmor"], line["operation"], line["denied_mask"]) for line in _audit(audit)]
    assert ("ALLOWED", "file_mprotect", "m") in logged
    # aa_file_perm(): the file remembers m, so that each opened one is told of once for it.
    opens = [each for each in logged if each == ("ALLOWED", "open", "w")]
    assert 0 < len([each for each in logged if each[2] == "m"]) <= len(opens)
    # The parent's profile stays a child's.
    program = guest("intel_like")
    audit.unlink()
    done = softsgx(
        "--apparmor", f"{profile}:other", "--audit", audit, "--", "/bin/sh", "-c", f"{program}; :"
    )
    assert "ok ecall" in _lines(done)
    assert {line["profile"] for line in _audit(audit)} == {"other"}


def test_a_profile_in_kill_mode_kills(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    profile, audit = _profile(tmp_path, "rwm", "flags=(kill)"), tmp_path / "audit"
    done = softsgx("--apparmor", f"{profile}:other", "--audit", audit, "--", guest("intel_like"))
    assert done.returncode == -signal.SIGKILL
    assert [(line["apparmor"], line["operation"]) for line in _audit(audit)] == [("KILLED", "open")]


def test_debians_policy_with_a_module(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    found = find_policy()
    if found is None:
        pytest.skip("Debian's policy is not in the cache: python -m tests.debian_policy")
    options = ("--selinux", found[0], "--file-contexts", found[1], "--context", "user_t")
    record, module = tmp_path / "run", tmp_path / "module.cil"
    assert softsgx(*options, "--", guest("intel_like")).returncode == 1
    _passes(softsgx(*options, "--permissive", "--record", record, "--", guest("intel_like")))
    module.write_text(softsgx.command("policy", record).stdout)
    rules = [line for line in module.read_text().splitlines() if line.startswith("(")]
    assert rules == ["(allow user_t device_t (chr_file (execute ioctl map open read write)))"]
    _passes(softsgx(*options, "--selinux", module, "--", guest("intel_like")))


_TRY_PROVISION = """
import errno, fcntl, mmap, os
fd = os.open("/dev/sgx_provision", os.O_RDONLY)
for name, use in (("ioctl", lambda: fcntl.ioctl(fd, 0xA4EE)),
                  ("mmap", lambda: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ))):
    try:
        use()
    except OSError as error:
        print(name, errno.errorcode[error.errno])
"""


@pytest.mark.parametrize(
    ("context", "answers", "denied"),
    [
        # The LSM comes before it is seen that there is nothing to map and no such ioctl.
        ("loader_t", ["ioctl EACCES", "mmap EACCES"], ["ioctl", "map"]),
        ("unconfined_t", ["ioctl ENOTTY", "mmap ENODEV"], []),
    ],
)
def test_the_lsm_comes_before_what_a_device_lacks(
    context: str, answers: list[str], denied: list[str], softsgx: Softsgx, tmp_path: Path
) -> None:
    audit = tmp_path / "audit"
    options = (*LOADER, "--context", context, "--audit", audit)
    done = softsgx(*options, "--", sys.executable, "-c", _TRY_PROVISION)
    assert _lines(done) == answers
    assert [line["perms"] for line in _audit(audit)] == denied


def test_a_transition_to_a_context_that_the_policy_forbids(
    guest: Guest, softsgx: Softsgx, tmp_path: Path
) -> None:
    """An exec keeps the label; an object may have any type, by which it is refused."""
    policy, contexts, audit = (tmp_path / name for name in ("p.cil", "contexts", "audit"))
    text = Path(MINIMAL).read_text() + "(type lost_t)\n"
    for old, new in (
        ("loader_exec_t process loader_t", "loader_exec_t process lost_t"),
        ('"[sgx_segment_rx]" sgx_segment_rx_t', '"[sgx_segment_rx]" lost_t'),
    ):
        assert old in text
        text = text.replace(old, new)
    policy.write_text(text)
    program = guest("orders")
    contexts.write_text(
        f"{re.escape(str(program))}\tsystem_u:object_r:loader_exec_t:s0\n"
        "/dev/sgx.*\tsystem_u:object_r:sgx_enclave_device_t:s0\n"
    )
    done = softsgx(
        "--selinux", policy, "--context", "unconfined_t", "--file-contexts", contexts,
        "--audit", audit, "--design", "segments", "--", "/bin/sh", "-c", f"exec {program}",
        stdin="0 open e rw\n0 create e\n0 add e p0 via=region src=anon_r perm=rx segment=rx\n",
        env={"SGX_DEVICE": "/dev/sgx/enclave"},
    )  # fmt: skip
    assert _lines(done) == ["0", "0", "EACCES"], done.stderr
    (line,) = _audit(audit)
    assert line["scontext"] == "system_u:system_r:unconfined_t:s0"
    assert line["tcontext"] == "system_u:object_r:lost_t:s0"
    assert (line["perms"], line["anonclass"]) == ("create", "[sgx_segment_rx]")
