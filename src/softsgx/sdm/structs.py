"""The SGX data structures: one field table each, by the SDM's names in lower case.

ATTRIBUTES (16 bytes in the SDM) is two rows, ``attributes`` (the flags) and ``xfrm``, wherever it
occurs, because every rule treats the halves apart.
"""

from __future__ import annotations

from softsgx.sdm.layout import Layout, field, reserved

__all__ = [
    "ATTRIBUTES",
    "EINITTOKEN",
    "EXINFO",
    "GPRSGX",
    "KEYREQUEST",
    "PAGEINFO",
    "PCMD",
    "REPORT",
    "REPORTDATA",
    "REPORT_BODY",
    "REPORT_MAC_SIZE",
    "SECINFO",
    "SECS",
    "SIGSTRUCT",
    "TARGETINFO",
    "TCS",
]

# SDM, Table "Layout of ATTRIBUTES Structure".
ATTRIBUTES = Layout(
    "ATTRIBUTES",
    16,
    field("attributes", 0, "u64"),
    field("xfrm", 8, "u64"),
)

# SDM, Table "Layout of SGX Enclave Control Structure (SECS)".
SECS = Layout(
    "SECS",
    4096,
    field("size", 0, "u64"),
    field("baseaddr", 8, "u64"),
    field("ssaframesize", 16, "u32"),
    field("miscselect", 20, "u32"),
    field("cet_leg_bitmap_offset", 24, "u64"),
    field("cet_attributes", 32, "u8"),
    reserved("reserved1", 33, 15),
    field("attributes", 48, "u64"),
    field("xfrm", 56, "u64"),
    field("mrenclave", 64, 32),
    reserved("reserved2", 96, 32),
    field("mrsigner", 128, 32),
    reserved("reserved3", 160, 32),
    field("configid", 192, 64),
    field("isvprodid", 256, "u16"),
    field("isvsvn", 258, "u16"),
    field("configsvn", 260, "u16"),
    reserved("reserved4", 262, 3834),
)

# SDM, Table "Layout of Thread Control Structure (TCS)".
TCS = Layout(
    "TCS",
    4096,
    field("stage", 0, "u64"),
    field("flags", 8, "u64"),
    field("ossa", 16, "u64"),
    field("cssa", 24, "u32"),
    field("nssa", 28, "u32"),
    field("oentry", 32, "u64"),
    field("aep", 40, "u64"),
    field("ofsbase", 48, "u64"),
    field("ogsbase", 56, "u64"),
    field("fslimit", 64, "u32"),
    field("gslimit", 68, "u32"),
    field("ocetssa", 72, "u64"),
    field("prevssp", 80, "u64"),
    reserved("reserved1", 88, 4008),
)

# SDM, Table "Layout of GPRSGX Portion of the State Save Area": the last bytes of an SSA frame.
GPRSGX = Layout(
    "GPRSGX",
    184,
    field("rax", 0, "u64"),
    field("rcx", 8, "u64"),
    field("rdx", 16, "u64"),
    field("rbx", 24, "u64"),
    field("rsp", 32, "u64"),
    field("rbp", 40, "u64"),
    field("rsi", 48, "u64"),
    field("rdi", 56, "u64"),
    field("r8", 64, "u64"),
    field("r9", 72, "u64"),
    field("r10", 80, "u64"),
    field("r11", 88, "u64"),
    field("r12", 96, "u64"),
    field("r13", 104, "u64"),
    field("r14", 112, "u64"),
    field("r15", 120, "u64"),
    field("rflags", 128, "u64"),
    field("rip", 136, "u64"),
    field("ursp", 144, "u64"),
    field("urbp", 152, "u64"),
    field("exitinfo", 160, "u32"),
    reserved("reserved1", 164, 3),
    field("aexnotify", 167, "u8"),
    field("fsbase", 168, "u64"),
    field("gsbase", 176, "u64"),
)

# SDM, Table "Layout of EXINFO Structure": in the MISC region, right below GPRSGX.
EXINFO = Layout(
    "EXINFO",
    16,
    field("maddr", 0, "u64"),
    field("errcd", 8, "u32"),
    reserved("reserved1", 12, 4),
)

# SDM, Table "Layout of Page Information Data Structure (PAGEINFO)".
PAGEINFO = Layout(
    "PAGEINFO",
    32,
    field("linaddr", 0, "u64"),
    field("srcpge", 8, "u64"),
    field("secinfo", 16, "u64"),
    field("secs", 24, "u64"),
)

# SDM, Table "Layout of Security Information (SECINFO) Data Structure".
SECINFO = Layout(
    "SECINFO",
    64,
    field("flags", 0, "u64"),
    reserved("reserved1", 8, 56),
)

# SDM, Table "Layout of PCMD Data Structure".
PCMD = Layout(
    "PCMD",
    128,
    field("secinfo", 0, 64),
    field("enclaveid", 64, "u64"),
    reserved("reserved1", 72, 40),
    field("mac", 112, 16),
)

# SDM, Table "Layout of Enclave Signature Structure (SIGSTRUCT)". Signed: [0, 128) and [900, 1028).
SIGSTRUCT = Layout(
    "SIGSTRUCT",
    1808,
    field("header", 0, 16),
    field("vendor", 16, "u32"),
    field("date", 20, "u32"),
    field("header2", 24, 16),
    field("swdefined", 40, "u32"),
    reserved("reserved1", 44, 84),
    field("modulus", 128, 384),
    field("exponent", 512, "u32"),
    field("signature", 516, 384),
    field("miscselect", 900, "u32"),
    field("miscmask", 904, "u32"),
    field("cet_attributes", 908, "u8"),
    field("cet_attributes_mask", 909, "u8"),
    reserved("reserved2", 910, 2),
    field("isvfamilyid", 912, 16),
    field("attributes", 928, "u64"),
    field("xfrm", 936, "u64"),
    field("attributemask", 944, "u64"),
    field("xfrmmask", 952, "u64"),
    field("enclavehash", 960, 32),
    reserved("reserved3", 992, 16),
    field("isvextprodid", 1008, 16),
    field("isvprodid", 1024, "u16"),
    field("isvsvn", 1026, "u16"),
    reserved("reserved4", 1028, 12),
    field("q1", 1040, 384),
    field("q2", 1424, 384),
)

# SDM, Table "Layout of EINIT Token (EINITTOKEN)".
EINITTOKEN = Layout(
    "EINITTOKEN",
    304,
    field("valid", 0, "u32"),
    reserved("reserved1", 4, 44),
    field("attributes", 48, "u64"),
    field("xfrm", 56, "u64"),
    field("mrenclave", 64, 32),
    reserved("reserved2", 96, 32),
    field("mrsigner", 128, 32),
    reserved("reserved3", 160, 32),
    field("cpusvnle", 192, 16),
    field("isvprodidle", 208, "u16"),
    field("isvsvnle", 210, "u16"),
    reserved("reserved4", 212, 24),
    field("maskedmiscselectle", 236, "u32"),
    field("maskedattributesle", 240, "u64"),
    field("maskedxfrmle", 248, "u64"),
    field("keyid", 256, 32),
    field("mac", 288, 16),
)

# SDM, Table "Layout of REPORT": what the MAC is over.
REPORT_BODY = Layout(
    "REPORT_BODY",
    384,
    field("cpusvn", 0, 16),
    field("miscselect", 16, "u32"),
    field("cet_attributes", 20, "u8"),
    reserved("reserved1", 21, 11),
    field("isvextprodid", 32, 16),
    field("attributes", 48, "u64"),
    field("xfrm", 56, "u64"),
    field("mrenclave", 64, 32),
    reserved("reserved2", 96, 32),
    field("mrsigner", 128, 32),
    reserved("reserved3", 160, 32),
    field("configid", 192, 64),
    field("isvprodid", 256, "u16"),
    field("isvsvn", 258, "u16"),
    field("configsvn", 260, "u16"),
    reserved("reserved4", 262, 42),
    field("isvfamilyid", 304, 16),
    field("reportdata", 320, 64),
)

# The whole of it.
REPORT = Layout(
    "REPORT",
    432,
    *REPORT_BODY.fields,
    field("keyid", 384, 32),
    field("mac", 416, 16),
)
REPORT_MAC_SIZE = REPORT_BODY.size

# SDM, "REPORTDATA": 64 bytes of the enclave's own choice, aligned to 128.
REPORTDATA = Layout("REPORTDATA", 64, field("reportdata", 0, 64))

# SDM, Table "Layout of TARGETINFO Data Structure".
TARGETINFO = Layout(
    "TARGETINFO",
    512,
    field("measurement", 0, 32),
    field("attributes", 32, "u64"),
    field("xfrm", 40, "u64"),
    field("cet_attributes", 48, "u8"),
    reserved("reserved1", 49, 1),
    field("configsvn", 50, "u16"),
    field("miscselect", 52, "u32"),
    reserved("reserved2", 56, 8),
    field("configid", 64, 64),
    reserved("reserved3", 128, 384),
)

# SDM, Table "Layout of KEYREQUEST Data Structure".
KEYREQUEST = Layout(
    "KEYREQUEST",
    512,
    field("keyname", 0, "u16"),
    field("keypolicy", 2, "u16"),
    field("isvsvn", 4, "u16"),
    field("cet_attributes_mask", 6, "u8"),
    reserved("reserved1", 7, 1),
    field("cpusvn", 8, 16),
    field("attributemask", 24, "u64"),
    field("xfrmmask", 32, "u64"),
    field("keyid", 40, 32),
    field("miscmask", 72, "u32"),
    field("configsvn", 76, "u16"),
    reserved("reserved2", 78, 434),
)
