"""VM_* bits by their smaps names, against what the running kernel says of real mappings."""

from __future__ import annotations

import mmap
import os

import pytest

from softsgx.uapi import errno, mman, sgx, syscalls


def vm_flags_at(address: int) -> list[str]:
    """The VmFlags letters of this process's mapping that contains an address."""
    inside = False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            first, _, rest = line.partition(" ")
            if "-" in first and not first.endswith(":"):
                start, end = (int(part, 16) for part in first.split("-"))
                inside = start <= address < end
            elif inside and first == "VmFlags:":
                return rest.split()
    raise AssertionError(f"{address:#x} is not mapped")


def address_of(mapping: mmap.mmap) -> int:
    import ctypes

    view = (ctypes.c_char * 1).from_buffer(mapping)
    address = ctypes.addressof(view)
    del view
    return address


MAY = mman.VM_MAYREAD | mman.VM_MAYWRITE | mman.VM_MAYEXEC


@pytest.mark.parametrize(
    ("flags", "prot", "expected"),
    [
        (mman.MAP_PRIVATE, 3, mman.VM_READ | mman.VM_WRITE | MAY),
        (mman.MAP_PRIVATE, 7, mman.VM_READ | mman.VM_WRITE | mman.VM_EXEC | MAY),
        (
            mman.MAP_SHARED,
            3,
            mman.VM_READ | mman.VM_WRITE | MAY | mman.VM_SHARED | mman.VM_MAYSHARE,
        ),
    ],
)
def test_permissions_of_anonymous_memory(flags: int, prot: int, expected: int) -> None:
    seen = 0xFF  # VM_READ to VM_MAYSHARE
    with mmap.mmap(-1, 8192, flags=flags | mman.MAP_ANONYMOUS, prot=prot) as mapping:
        letters = vm_flags_at(address_of(mapping))
    assert mman.vm_flags_of_smaps(letters) & seen == expected
    assert mman.vm_flags_of_smaps([*letters, "zz"]) == mman.vm_flags_of_smaps(letters)


def test_a_read_only_fd_takes_may_write_away() -> None:
    fd = os.memfd_create("ro")
    os.ftruncate(fd, 4096)
    read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    other = mmap.mmap(fd, 4096)  # writable, so that there is an address to ask for
    assert mman.vm_flags_of_smaps(vm_flags_at(address_of(other))) & mman.VM_MAYWRITE
    other.close()
    mapping = mmap.mmap(read_only, 4096, prot=mman.PROT_READ, flags=mman.MAP_SHARED)
    with open("/proc/self/smaps") as smaps:
        text = smaps.read()
    mapping.close()
    letters = text[text.index("/memfd:ro") :].partition("VmFlags:")[2].splitlines()[0].split()
    assert not mman.vm_flags_of_smaps(letters) & mman.VM_MAYWRITE
    os.close(fd)
    os.close(read_only)


@pytest.mark.parametrize(
    ("advice", "flag"),
    [
        (mman.MADV_DONTFORK, mman.VM_DONTCOPY),
        (mman.MADV_DONTDUMP, mman.VM_DONTDUMP),
        (mman.MADV_WIPEONFORK, mman.VM_WIPEONFORK),
        (mman.MADV_SEQUENTIAL, mman.VM_SEQ_READ),
        (mman.MADV_RANDOM, mman.VM_RAND_READ),
    ],
)
def test_advice_sets_its_flag(advice: int, flag: int) -> None:
    with mmap.mmap(-1, 8192, flags=mman.MAP_PRIVATE | mman.MAP_ANONYMOUS) as mapping:
        before = mman.vm_flags_of_smaps(vm_flags_at(address_of(mapping)))
        mapping.madvise(advice)
        after = mman.vm_flags_of_smaps(vm_flags_at(address_of(mapping)))
    assert after ^ before == flag


def test_names_go_both_ways() -> None:
    flags = mman.VM_READ | mman.VM_MAYREAD | mman.VM_PFNMAP | mman.VM_IO | mman.VM_DONTEXPAND
    assert mman.smaps_of_vm_flags(flags) == "rd mr pf io de"
    assert mman.vm_flags_of_smaps(["rd", "mr", "pf", "io", "de"]) == flags
    assert (mman.VM_MAYREAD >> mman.VM_MAY_SHIFT, mman.VM_MAYEXEC >> mman.VM_MAY_SHIFT) == (1, 4)
    assert mman.prot_text(5) == "r-x"


def test_errno_names() -> None:
    assert errno.errno_name(13) == errno.errno_name(-13) == "EACCES"
    assert errno.errno_name(11) == "EAGAIN"
    assert errno.errno_name(9999) == "9999"
    assert errno.errno_name(0) == "0"
    assert errno.errno_number("ENOTTY") == errno.ENOTTY
    for number in range(1, 134):
        name = errno.errno_name(number)
        assert name.isdigit() or os.strerror(number) != f"Unknown error {number}"


def test_syscall_names() -> None:
    assert syscalls.syscall_name(9) == "mmap"
    assert syscalls.syscall_name(1000) == "syscall_1000"
    assert repr(syscalls.SYSCALLS[syscalls.NR_mprotect]) == "mprotect(start, len, prot)"


def test_ioctl_names() -> None:
    assert sgx.describe_ioc(0x4008A402) == "SGX_IOC_ENCLAVE_INIT"
    unknown = sgx.iowr(0x33, sgx.ENCLAVE_ADD_PAGES)
    assert sgx.describe_ioc(unknown) == "0xc030a433 (magic 0xa4, nr 0x33, size 48, read|write)"
