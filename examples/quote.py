"""A quote from Python: an enclave makes a REPORT for the quoting enclave, the device quotes it.

A verifier that softsgx's authors did not write accepts it under the device's own root, and under
no other. Needs `pip install softsgx[attest]`. Run it with `python examples/quote.py`.
"""

import json
import time

import dcap_qvl

from softsgx.attest.collateral import Collateral, Conditions
from softsgx.device import Device
from softsgx.device.build import Segment, build_enclave, tcs_page
from softsgx.device.cpu import enclu
from softsgx.sdm.leaves import EENTER, EREPORT
from softsgx.sdm.quote import parse_quote
from softsgx.sdm.sigstruct import new_key
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED
from softsgx.uapi.regs import NREGS, RAX, RBX, RCX, RDX

R, W, X = 1, 2, 4
BASE, SIZE = 0x7000_0000_0000, 0x8000
KEY = new_key()  # RSA-3072: who signs the enclave


def report(device: Device, data: bytes) -> bytes:
    """The REPORT (432 bytes) of a small enclave over 64 bytes of data."""
    process = device.process()
    segments = [
        Segment(0x0000, tcs_page(entry=0x3000, ssa=0x1000), tcs=True),
        Segment(0x1000, bytes(0x2000), R | W),  # two SSA frames
        Segment(0x3000, b"\x0f\x01\xd7", R | X),  # ENCLU
        Segment(0x4000, bytes(0x1000), R | W),  # what EREPORT takes and gives
    ]
    fd = build_enclave(process, BASE, SIZE, segments, KEY)
    for start, size, prot in ((0, 0x3000, R | W), (0x3000, 0x1000, R | X), (0x4000, 0x1000, R | W)):
        process.mmap(BASE + start, size, prot, MAP_SHARED | MAP_FIXED, fd)
    memory = process.files[fd].enclave.memory
    memory.write(0x4000, device.qe_target_info)
    memory.write(0x4200, data.ljust(64, b"\0"))
    thread, regs = process.thread(), [0] * NREGS
    regs[RAX], regs[RBX], regs[RCX] = EENTER, BASE, 0x401000
    assert enclu(process, thread, regs) == 0
    regs[RAX], regs[RBX], regs[RCX], regs[RDX] = (
        EREPORT,
        *(BASE + o for o in (0x4000, 0x4200, 0x4400)),
    )
    assert enclu(process, thread, regs) == 0
    return bytes(memory.read(0x4400, 432))


if __name__ == "__main__":
    device = Device(key_root=bytes(range(32)))  # any 32 bytes: they are the device
    quote = device.quote(report(device, b"what the enclave says"))
    print(f"a quote of {len(quote)} bytes: {parse_quote(quote).body.reportdata[:21].decode()}")
    certificates = device.quoting.certificates
    now = int(time.time())
    for status in ("UpToDate", "OutOfDate"):
        document = Collateral(certificates, Conditions(now, status)).document()
        collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(document))
        verified = dcap_qvl.verify_with_root_ca(quote, collateral, certificates.root.der, now)
        print(f"accepted: {verified.status}")
    try:
        dcap_qvl.verify(quote, collateral, now)
    except ValueError:
        print("refused under Intel's root")
