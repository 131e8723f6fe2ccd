"""The library in one sitting: an enclave on a software device, entered and left from Python.

Nothing here needs SGX, ptrace or root: the device, the process and the thread are objects.
Run it with `python examples/library.py`.
"""

from softsgx.device import Device
from softsgx.device.build import Segment, build_enclave, tcs_page
from softsgx.device.cpu import enclu
from softsgx.sdm.leaves import EENTER, EEXIT, ERESUME
from softsgx.sdm.sigstruct import new_key
from softsgx.sgx.enclu import aex
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED
from softsgx.uapi.regs import NREGS, RAX, RBX, RCX, RIP, RSP

R, W, X = 1, 2, 4
BASE, SIZE = 0x7000_0000_0000, 0x4000

device = Device()  # the design linux-6.12, no LSM
process = device.process()
segments = [
    Segment(0x0000, tcs_page(entry=0x3000, ssa=0x1000), tcs=True),
    Segment(0x1000, bytes(0x2000), R | W),  # two SSA frames
    Segment(0x3000, b"\x0f\x01\xd7", R | X),  # ENCLU
]
fd = build_enclave(process, BASE, SIZE, segments, new_key())
for start, length, prot in ((0, 0x3000, R | W), (0x3000, 0x1000, R | X)):
    process.mmap(BASE + start, length, prot, MAP_SHARED | MAP_FIXED, fd)
print(f"more than SECINFO allows: {process.mprotect(BASE + 0x3000, 0x1000, R | W | X)}")

thread = process.thread()
regs = [0] * NREGS
regs[RAX], regs[RBX], regs[RCX], regs[RIP], regs[RSP] = EENTER, BASE, 0x401000, 0x400000, 0x7FFE0000
print(f"EENTER: {enclu(process, thread, regs)}, RIP = {regs[RIP]:#x}, CSSA = {regs[RAX]}")
aex(thread, regs)
print(f"an interrupt: RIP = {regs[RIP]:#x} (the AEP), RAX = {regs[RAX]} (ERESUME)")
assert regs[RAX] == ERESUME
print(f"ERESUME: {enclu(process, thread, regs)}, RIP = {regs[RIP]:#x}")
regs[RAX], regs[RBX] = EEXIT, 0x400003
print(f"EEXIT: {enclu(process, thread, regs)}, RIP = {regs[RIP]:#x}")
