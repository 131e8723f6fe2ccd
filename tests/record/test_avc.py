"""Our audit lines are the kernel's, to the byte, and the tools that read them agree."""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
from pathlib import Path

import pytest

from softsgx.policy.selinux import SELinuxPolicy
from softsgx.record.avc import apparmor_line, audit_head, avc_line, untrusted
from tests.truthrows import TRUTH, AuditLine, read

LOADER = "system_u:system_r:loader_t:s0"
DEVICE = "system_u:object_r:sgx_enclave_device_t:s0"


def _text(line: AuditLine, name: str) -> str | bytes | None:
    """A string of the kernel's line, decoded from hex where it was not quoted."""
    value = line.fields.get(name)
    if value is None or name in line.quoted:
        return value
    return bytes.fromhex(value)


def _number(line: AuditLine, name: str) -> int | None:
    return int(line.fields[name], 0) if name in line.fields else None


@pytest.mark.parametrize("line", read("selinux-tiny").audit, ids=lambda line: str(line.serial))
def test_selinux_lines_are_the_kernels(line: AuditLine) -> None:
    fields = line.fields
    ours = avc_line(
        milliseconds=line.milliseconds,
        serial=line.serial,
        perms=reversed(line.perms),
        pid=int(fields["pid"]),
        comm=fields["comm"],
        path=_text(line, "path"),
        name=_text(line, "name"),
        dev=fields.get("dev"),
        ino=_number(line, "ino"),
        ioctlcmd=_number(line, "ioctlcmd"),
        scontext=fields["scontext"],
        tcontext=fields["tcontext"],
        tclass=fields["tclass"],
    )
    assert ours == f"{audit_head(line.milliseconds, line.serial)} {line.text}"


@pytest.mark.parametrize("line", read("apparmor").audit, ids=lambda line: str(line.serial))
def test_apparmor_lines_are_the_kernels(line: AuditLine) -> None:
    fields = line.fields
    ours = apparmor_line(
        milliseconds=line.milliseconds,
        serial=line.serial,
        operation=fields["operation"],
        profile=fields["profile"],
        name=fields["name"],
        pid=int(fields["pid"]),
        comm=fields["comm"],
        requested=fields["requested_mask"],
        denied=fields["denied_mask"],
        fsuid=int(fields["fsuid"]),
        ouid=int(fields["ouid"]),
    )
    assert ours == f"{audit_head(line.milliseconds, line.serial)} {line.text}"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain-1.so", '"plain-1.so"'),
        ("/memfd:m (deleted)", "2F6D656D66643A6D202864656C6574656429"),
        ('a"b', "612262"),
        ("tab\there", "7461620968657265"),
        ("\x7f", "7F"),
        (b"\xff\x01", "FF01"),
        ("é", "C3A9"),
        ("", '""'),
        ("~!#$", '"~!#$"'),
    ],
)
def test_strings_of_programs_are_quoted_or_hexed(text: str | bytes, written: str) -> None:
    assert untrusted(text) == written


def _line(perms: tuple[str, ...], **more: object) -> str:
    given: dict[str, object] = {
        "milliseconds": 1795404135007,
        "serial": 9,
        "pid": 80,
        "comm": "loader",
        "path": "/dev/sgx_enclave",
        "dev": "devtmpfs",
        "ino": 97,
        "scontext": LOADER,
        "tcontext": DEVICE,
        "tclass": "chr_file",
    }
    return avc_line(perms=perms, **(given | more))  # type: ignore[arg-type]


def test_what_the_kernel_cuts_and_leaves_out() -> None:
    line = _line(("ioctl",), ioctlcmd=0xC018A403, comm="a-very-long-name-of-a-program")
    assert 'comm="a-very-long-nam" ' in line
    assert " ioctlcmd=0xa403 " in line
    assert "msg=audit(1795404135.007:9):" in line
    granted = _line(("read",), denied=False)
    assert "avc:  granted  { read } for " in granted
    assert "permissive" not in granted
    assert _line(("read",), permissive=True).endswith(" permissive=1")
    created = _line(
        ("create",), path=None, dev=None, ino=None, anonclass="[sgx_segment]", tclass="anon_inode"
    )
    assert ' comm="loader" anonclass=[sgx_segment] scontext=' in created


def _audit2allow(policy: Path, lines: list[str], *options: str) -> str:
    tool = shutil.which("audit2allow")
    if tool is None:
        pytest.skip("no audit2allow here; to run it: apt-get install policycoreutils-python-utils")
    done = subprocess.run(
        [tool, *options, "-p", policy],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    if ctypes.util.find_library("sepol") is None:
        pytest.skip("no libsepol.so.2 here; to run it: apt-get install libsepol2")
    policy = SELinuxPolicy.load(str(TRUTH / "selinux-tiny.cil"))
    path = tmp_path / "policy.33"
    path.write_bytes(policy.image)
    policy.close()
    return path


def test_audit2allow_reads_our_lines(compiled: Path) -> None:
    said = _audit2allow(
        compiled,
        [
            _line(("execmod",)),
            _line(("write", "append"), tclass="blk_file", comm='a "comm"', path="/dev/sgx enclave"),
            _line(
                ("execheap",),
                path=None,
                dev=None,
                ino=None,
                tclass="process",
                tcontext=LOADER,
            ),
        ],
    )
    rules = [line for line in said.splitlines() if line and not line.startswith("#")]
    assert sorted(rules) == [
        "allow loader_t self:process execheap;",
        "allow loader_t sgx_enclave_device_t:blk_file { append write };",
        "allow loader_t sgx_enclave_device_t:chr_file execmod;",
    ]
    assert "can be allowed using the boolean 'sgx_execmod'" in said


def test_audit2allow_reads_the_ioctl_number(compiled: Path) -> None:
    said = _audit2allow(compiled, [_line(("ioctl",), ioctlcmd=0xA403)], "-x")
    assert "allowxperm loader_t sgx_enclave_device_t:chr_file ioctl 0xa403;" in said
