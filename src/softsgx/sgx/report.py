"""EREPORT: what an enclave is, said to another enclave of the same device."""

from __future__ import annotations

from softsgx.sdm.structs import REPORT, TARGETINFO
from softsgx.sgx.keys import CPUSVN, Identity, report_key, report_mac

__all__ = ["ereport", "report_keyid", "target_key"]


def report_keyid(root: bytes) -> bytes:
    """CR_REPORT_KEYID (32 bytes): the same for all enclaves of a device, as between two boots."""
    import hashlib

    return hashlib.sha256(b"report keyid" + root).digest()


def target_key(root: bytes, targetinfo: bytes, keyid: bytes, cpusvn: bytes = CPUSVN) -> bytes:
    """REPORT_KEY (16 bytes) of the enclave that TARGETINFO names: REPORTs for it have its MAC."""
    t = TARGETINFO.unpack(targetinfo)
    return report_key(
        root,
        keyid,
        t.measurement,
        t.attributes,
        t.xfrm,
        t.miscselect,
        t.configid,
        t.configsvn,
        t.cet_attributes,
        cpusvn,
    )


def ereport(
    secs: Identity,
    targetinfo: bytes,
    reportdata: bytes,
    root: bytes,
    keyid: bytes,
    cpusvn: bytes = CPUSVN,
) -> bytes:
    """The REPORT (432 bytes) of the enclave ``secs`` for the enclave that TARGETINFO names.

    ``reportdata`` has 64 bytes; ``keyid`` (32) is the device's CR_REPORT_KEYID, random for each
    boot. The target verifies: EGETKEY of REPORT_KEY with the report's KEYID, then
    :func:`softsgx.sgx.keys.report_mac`. Reserved bytes of TARGETINFO are not looked at. SDM,
    EREPORT, "Operation".
    """
    report = REPORT.pack(
        cpusvn=cpusvn,
        miscselect=secs.miscselect,
        cet_attributes=secs.cet_attributes,
        isvextprodid=secs.isvextprodid,
        attributes=secs.attributes,
        xfrm=secs.xfrm,
        mrenclave=secs.mrenclave,
        mrsigner=secs.mrsigner,
        configid=secs.configid,
        isvprodid=secs.isvprodid,
        isvsvn=secs.isvsvn,
        configsvn=secs.configsvn,
        isvfamilyid=secs.isvfamilyid,
        reportdata=bytes(reportdata),
        keyid=keyid,
    )
    key = target_key(root, targetinfo, keyid, cpusvn)
    return report[: REPORT.offset("mac")] + report_mac(key, report)
