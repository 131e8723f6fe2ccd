"""EGETKEY: keys that depend on the enclave's identity and on one secret of the device.

The secret (32 bytes) stands for what a processor has in fuses, and gives the owner epoch too. A key
is AES-CMAC of the key dependencies, the structure that the SDM assembles for each key name; so two
enclaves get the same key exactly where two enclaves on one processor would. The keys are not those
of any real processor, and protect nothing from whoever can read the secret.

Faults (#GP for a malformed KEYREQUEST) are asked for separately, since they are not error codes.
"""

from __future__ import annotations

from softsgx.errors import InternalError
from softsgx.sdm import leaves
from softsgx.sdm.layout import Layout, Record, field
from softsgx.sdm.sigstruct import PKCS1_5_PADDING, mrsigner
from softsgx.sdm.structs import KEYREQUEST, REPORT_MAC_SIZE

__all__ = [
    "CPUSVN",
    "KEYDEPENDENCIES",
    "Identity",
    "cmac",
    "egetkey",
    "keyrequest_faults",
    "report_key",
    "report_mac",
]

ROOT_SIZE = 32

# The security version of this "processor": opaque bytes, of which each is a component's version.
CPUSVN = bytes((1, 1)) + bytes(14)

# SDM, EGETKEY, "Operation": attributes that are always part of a key.
_REQUIRED_SEALING_MASK = leaves.ATTR_INIT | leaves.ATTR_DEBUG

# SDM, EGETKEY, "Operation", TMP_KEYDEPENDENCIES; the order is ours, the SDM gives none.
KEYDEPENDENCIES = Layout(
    "KEYDEPENDENCIES",
    648,
    field("keyname", 0, "u16"),
    field("keypolicy", 2, "u16"),
    field("isvprodid", 4, "u16"),
    field("isvsvn", 6, "u16"),
    field("configsvn", 8, "u16"),
    field("cet_attributes", 10, "u8"),
    field("cet_attributes_mask", 11, "u8"),
    field("miscselect", 12, "u32"),
    field("miscmask", 16, "u32"),
    field("pad", 20, "u32"),
    field("isvfamilyid", 24, 16),
    field("isvextprodid", 40, 16),
    field("sgxownerepoch", 56, 16),
    field("seal_key_fuses", 72, 16),
    field("cpusvn", 88, 16),
    field("attributes", 104, "u64"),
    field("xfrm", 112, "u64"),
    field("attributemask", 120, "u64"),
    field("xfrmmask", 128, "u64"),
    field("mrenclave", 136, 32),
    field("mrsigner", 168, 32),
    field("keyid", 200, 32),
    field("configid", 232, 64),
    field("padding", 296, 352),
)


class Identity:
    """What the SECS says of an initialized enclave: all that a key or a report depends on.

    The last two come from SIGSTRUCT; the processor keeps them where software cannot see them.
    """

    __slots__ = (
        "attributes",
        "cet_attributes",
        "configid",
        "configsvn",
        "isvextprodid",
        "isvfamilyid",
        "isvprodid",
        "isvsvn",
        "miscselect",
        "mrenclave",
        "mrsigner",
        "xfrm",
    )

    def __init__(self, secs: Record, sigstruct: Record, mrenclave: bytes) -> None:
        """As EINIT commits it, from records of the two structures and the measurement."""
        self.attributes: int = secs.attributes | leaves.ATTR_INIT
        self.xfrm: int = secs.xfrm
        self.miscselect: int = secs.miscselect
        self.cet_attributes: int = secs.cet_attributes
        self.configid: bytes = secs.configid
        self.configsvn: int = secs.configsvn
        self.mrenclave = mrenclave
        self.mrsigner = mrsigner(sigstruct.modulus)
        self.isvprodid: int = sigstruct.isvprodid
        self.isvsvn: int = sigstruct.isvsvn
        self.isvfamilyid: bytes = sigstruct.isvfamilyid
        self.isvextprodid: bytes = sigstruct.isvextprodid


def cmac(key: bytes, message: bytes) -> bytes:
    """AES-CMAC (RFC 4493), 16 bytes; a key of 32 bytes makes it AES-256."""
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.cmac import CMAC

    mac = CMAC(AES(key))
    mac.update(message)
    return mac.finalize()


def keyrequest_faults(secs: Identity, keyrequest: bytes) -> bool:
    """Whether EGETKEY of these 512 bytes is #GP(0): reserved bits, or KSS policies without KSS."""
    r = KEYREQUEST.unpack(keyrequest)
    if not KEYREQUEST.reserved_zero(keyrequest) or r.keypolicy & leaves.KEYPOLICY_RESERVED_MASK:
        return True
    uses_kss = bool(r.keypolicy & leaves.KEYPOLICY_KSS_MASK or r.configsvn)
    return uses_kss and not secs.attributes & leaves.ATTR_KSS


def egetkey(
    secs: Identity, keyrequest: bytes, root: bytes, cpusvn: bytes = CPUSVN
) -> tuple[int, bytes]:
    """(SGX error code, key of 16 bytes); the key is empty if the code is not SGX_SUCCESS.

    cpusvn: the processor's.

    The codes are SGX_INVALID_ATTRIBUTE, _CPUSVN, _ISVSVN and _KEYNAME, in the order of the SDM's
    "Operation". Ask :func:`keyrequest_faults` first.
    """
    r = KEYREQUEST.unpack(keyrequest)
    if r.keyname == leaves.KEY_REPORT:
        return leaves.SGX_SUCCESS, report_key(
            root,
            r.keyid,
            secs.mrenclave,
            secs.attributes,
            secs.xfrm,
            secs.miscselect,
            secs.configid,
            secs.configsvn,
            secs.cet_attributes,
            cpusvn,
        )
    need = _NEEDED_ATTRIBUTE.get(r.keyname)
    if need is None:
        return leaves.SGX_INVALID_KEYNAME, b""
    if need & ~secs.attributes:
        return leaves.SGX_INVALID_ATTRIBUTE, b""
    if any(asked > have for asked, have in zip(r.cpusvn, cpusvn, strict=True)):
        return leaves.SGX_INVALID_CPUSVN, b""
    if r.isvsvn > secs.isvsvn or r.configsvn > secs.configsvn:
        return leaves.SGX_INVALID_ISVSVN, b""
    return leaves.SGX_SUCCESS, _derive(root, **_dependencies(secs, r, root))


# KEYNAME: the attribute that the enclave needs for it. REPORT_KEY is for everyone, and has no SVN.
_NEEDED_ATTRIBUTE = {
    leaves.KEY_SEAL: 0,
    leaves.KEY_EINITTOKEN: leaves.ATTR_EINITTOKEN_KEY,
    leaves.KEY_PROVISION: leaves.ATTR_PROVISIONKEY,
    leaves.KEY_PROVISION_SEAL: leaves.ATTR_PROVISIONKEY,
}


def _dependencies(secs: Identity, r: Record, root: bytes) -> dict[str, int | bytes]:
    """SDM, Table "Key Derivation": a row for each key name, "request" or "yes" for each column."""
    seal, provision_seal = r.keyname == leaves.KEY_SEAL, r.keyname == leaves.KEY_PROVISION_SEAL
    # Only the two sealing keys let KEYPOLICY choose; the others have the policy's default.
    policy = r.keypolicy if seal or provision_seal else 0
    d: dict[str, int | bytes] = {
        "keyname": r.keyname,
        "keypolicy": policy,
        "isvsvn": r.isvsvn,
        "cpusvn": r.cpusvn,
        "attributes": (r.attributemask | _REQUIRED_SEALING_MASK) & secs.attributes,
        "xfrm": r.xfrmmask & secs.xfrm,
        "miscselect": r.miscmask & secs.miscselect,
        "cet_attributes": r.cet_attributes_mask & secs.cet_attributes,
    }
    if r.keyname != leaves.KEY_EINITTOKEN:
        d["attributemask"] = r.attributemask
        d["xfrmmask"] = r.xfrmmask
        d["miscmask"] = ~r.miscmask & 0xFFFF_FFFF
        d["cet_attributes_mask"] = ~r.cet_attributes_mask & 0xFF
    if not policy & leaves.KEYPOLICY_NOISVPRODID:
        d["isvprodid"] = secs.isvprodid
    if policy & leaves.KEYPOLICY_ISVFAMILYID:
        d["isvfamilyid"] = secs.isvfamilyid
    if policy & leaves.KEYPOLICY_ISVEXTPRODID:
        d["isvextprodid"] = secs.isvextprodid
    if policy & leaves.KEYPOLICY_CONFIGID:
        d["configid"] = secs.configid
        d["configsvn"] = r.configsvn
    if seal and policy & leaves.KEYPOLICY_MRENCLAVE:
        d["mrenclave"] = secs.mrenclave
    if not seal or policy & leaves.KEYPOLICY_MRSIGNER:
        d["mrsigner"] = secs.mrsigner
    if seal or r.keyname == leaves.KEY_EINITTOKEN:
        d["sgxownerepoch"] = _owner_epoch(root)
        d["keyid"] = r.keyid
    if r.keyname != leaves.KEY_PROVISION:
        d["seal_key_fuses"] = _seal_fuses(root)
    return d


def report_key(
    root: bytes,
    keyid: bytes,
    mrenclave: bytes,
    attributes: int,
    xfrm: int,
    miscselect: int,
    configid: bytes,
    configsvn: int,
    cet_attributes: int,
    cpusvn: bytes = CPUSVN,
) -> bytes:
    """REPORT_KEY (16 bytes) of the enclave with this identity; EREPORT makes it of TARGETINFO."""
    return _derive(
        root,
        keyname=leaves.KEY_REPORT,
        sgxownerepoch=_owner_epoch(root),
        seal_key_fuses=_seal_fuses(root),
        cpusvn=cpusvn,
        keyid=keyid,
        mrenclave=mrenclave,
        attributes=attributes,
        xfrm=xfrm,
        miscselect=miscselect,
        configid=configid,
        configsvn=configsvn,
        cet_attributes=cet_attributes,
    )


def report_mac(key: bytes, report: bytes) -> bytes:
    """The MAC of a REPORT (16 bytes): AES-CMAC of its first 384 bytes."""
    return cmac(key, report[:REPORT_MAC_SIZE])


def _derive(root: bytes, **dependencies: int | bytes) -> bytes:
    if len(root) != ROOT_SIZE:
        raise InternalError(f"the device's secret has {len(root)} bytes, not {ROOT_SIZE}")
    return cmac(root, KEYDEPENDENCIES.pack(padding=PKCS1_5_PADDING, **dependencies))


def _owner_epoch(root: bytes) -> bytes:
    return cmac(root, b"CR_SGXOWNEREPOCH")


def _seal_fuses(root: bytes) -> bytes:
    return cmac(root, b"CR_SEAL_FUSES")
