"""One's own enclave from Python: built from an ELF file, measured, signed, loaded and entered.

    softsgx run -- python examples/own_enclave.py

runs it on the device, as any machine with SGX would. Without a device it is loaded into one that
lives in this process, which checks it as EINIT does and cannot run it. Needs gcc.
"""

import ctypes
import fcntl
import mmap
import os
import subprocess
import tempfile
from pathlib import Path

from softsgx.device import Device
from softsgx.device.build import Segment, add_segment, create, init, tcs_page
from softsgx.images.elf import Elf
from softsgx.images.image import Image, read_file
from softsgx.images.sgxs import Stream, write
from softsgx.images.spec import image_of
from softsgx.sdm.leaves import ATTR_MODE64BIT, EENTER, SECINFO_TCS, XFRM_LEGACY
from softsgx.sdm.sigstruct import new_key, sign
from softsgx.sdm.structs import SECINFO, SECS
from softsgx.uapi import sgx

# RDI: two numbers, and room for their sum, outside of the enclave. RCX: where EEXIT goes.
CODE = """
        .text
        .globl start
start:  mov (%rdi), %rax
        add 8(%rdi), %rax
        mov %rax, 16(%rdi)
        mov %rcx, %rbx
        mov $4, %eax                    # EEXIT
        .byte 0x0f, 0x01, 0xd7          # ENCLU
        .section .note.GNU-stack, "", @progbits
"""
R, W = 1, 2
DEVICE = "/dev/sgx_enclave"


def build(folder: Path) -> None:
    """Write own.elf, own.sgxs and own.sig."""
    source, elf_file = folder / "own.S", folder / "own.elf"
    source.write_text(CODE)
    flags = ["-nostdlib", "-static", "-Wl,-e,start,-Ttext-segment=0x10000,-z,separate-code"]
    subprocess.run(["gcc", *flags, source, "-o", elf_file], check=True)
    elf = Elf(read_file(str(elf_file)))
    segments = elf.segments()  # at their addresses, which count from the enclave's base
    tcs = segments[-1].offset + len(segments[-1].data)
    segments += [
        Segment(tcs, tcs_page(entry=elf.entry, ssa=tcs + 0x1000), tcs=True),
        Segment(tcs + 0x1000, bytes(0x2000), R | W),  # two SSA frames
    ]
    with open(folder / "own.sgxs", "wb") as f:
        mrenclave = write(image_of(segments), f)
    everything = (1 << 64) - 1
    signature = sign(
        new_key(), enclavehash=mrenclave, date=0x20260131, isvprodid=1, isvsvn=1,
        attributes=ATTR_MODE64BIT, attributemask=everything, xfrm=XFRM_LEGACY, xfrmmask=everything,
    )  # fmt: skip
    (folder / "own.sig").write_bytes(signature)
    print(f"MRENCLAVE {mrenclave.hex()}")


def load(image: Image, signature: bytes) -> int:
    """Load an enclave into the device: where its only TCS is in this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fd = os.open(DEVICE, os.O_RDWR)

    def do(cmd: int, argument: bytes) -> None:
        fcntl.ioctl(fd, cmd, bytearray(argument))

    # ELRANGE is aligned to its size: twice as much address space has such a place.
    none, private, anonymous = 0, 2, 0x20
    there = libc.mmap(None, 2 * image.size, none, private | anonymous, -1, 0)
    base = (there + image.size - 1) & -image.size
    secs = SECS.pack(
        size=image.size, baseaddr=base, ssaframesize=image.ssa_frame_pages,
        attributes=ATTR_MODE64BIT, xfrm=XFRM_LEGACY,
    )  # fmt: skip
    src = ctypes.create_string_buffer(secs, len(secs))
    do(sgx.SGX_IOC_ENCLAVE_CREATE, sgx.ENCLAVE_CREATE.pack(src=ctypes.addressof(src)))
    tcs = 0
    for part in image.parts:
        length = part.n_pages * mmap.PAGESIZE
        pages = mmap.mmap(-1, length)  # at the start of a page, as ADD_PAGES wants it
        pages[: len(part.data or b"")] = bytes(part.data or b"")
        secinfo = ctypes.create_string_buffer(SECINFO.pack(flags=part.flags), SECINFO.size)
        do(sgx.SGX_IOC_ENCLAVE_ADD_PAGES, sgx.ENCLAVE_ADD_PAGES.pack(
            src=ctypes.addressof(ctypes.c_char.from_buffer(pages)), offset=part.offset,
            length=length, secinfo=ctypes.addressof(secinfo),
            flags=sgx.SGX_PAGE_MEASURE if part.measured else 0,
        ))  # fmt: skip
        is_tcs = part.flags == SECINFO_TCS
        prot = R | W if is_tcs else part.flags & 7
        libc.mmap(base + part.offset, length, prot, mmap.MAP_SHARED | 0x10, fd, 0)  # MAP_FIXED
        tcs = base + part.offset if is_tcs else tcs
    src = ctypes.create_string_buffer(signature, len(signature))
    do(sgx.SGX_IOC_ENCLAVE_INIT, sgx.ENCLAVE_INIT.pack(sigstruct=ctypes.addressof(src)))
    return tcs


def enter(tcs: int, a: int, b: int) -> int:
    """What the enclave makes of two numbers, by the vDSO's function."""
    call = ctypes.CDLL("linux-vdso.so.1")["__vdso_sgx_enter_enclave"]
    call.argtypes = [*[ctypes.c_ulong] * 3, ctypes.c_uint, *[ctypes.c_ulong] * 2, ctypes.c_void_p]
    numbers = (ctypes.c_uint64 * 3)(a, b)
    run = (ctypes.c_uint64 * 32)(tcs)  # struct sgx_enclave_run
    if call(ctypes.addressof(numbers), 0, 0, EENTER, 0, 0, ctypes.byref(run)):
        raise SystemExit("the enclave cannot be entered")
    return numbers[2]


def load_without_device(image: Image, signature: bytes) -> None:
    """The same on a device that is a Python object, in a process that does not exist."""
    process = Device().process()
    fd = process.open(DEVICE)
    create(process, fd, 0x7000_0000_0000, image.size)
    for part in image.parts:
        data = part.data or bytes(part.n_pages * mmap.PAGESIZE)
        is_tcs = part.flags == SECINFO_TCS
        add_segment(process, fd, Segment(part.offset, bytes(data), part.flags & 7, tcs=is_tcs))
    init(process, fd, signature)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        image = Stream(read_file(str(folder / "own.sgxs"))).image()
        signature = (folder / "own.sig").read_bytes()
        if os.path.exists(DEVICE):
            print(f"the enclave says: 20 + 22 = {enter(load(image, signature), 20, 22)}")
        else:
            load_without_device(image, signature)
            print("loaded; 'softsgx run -- python examples/own_enclave.py' enters it, too")
