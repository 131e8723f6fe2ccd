"""What a certificate says of the platform: FMSPC, PPID, security versions.

The two enclaves that make quotes are not there: nothing of theirs is ever loaded. What a
verifier sees of the quoting enclave (QE) is an identity of softsgx's own; of the provisioning
certification enclave (PCE) it sees only its security version, its ID and the PCK key.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

from softsgx.attest.secrets import derive
from softsgx.errors import UsageError
from softsgx.sdm import leaves
from softsgx.sdm.quote import ALG_ECDSA_P256, ATT_KEY_ID
from softsgx.sdm.structs import SECS, SIGSTRUCT, TARGETINFO
from softsgx.sgx.keys import CPUSVN, Identity

__all__ = [
    "ATT_KEY_IDS", "FMSPC_SIZE", "PCEID", "PCESVN", "PPID_SIZE", "QE", "QE_ISVPRODID", "QE_ISVSVN",
    "QVE_ISVPRODID", "QVE_ISVSVN", "Platform", "qe_target_info",
]  # fmt: skip

FMSPC_SIZE, PPID_SIZE = 6, 16
PCEID = bytes(2)
PCESVN = 1
QE_ISVPRODID, QE_ISVSVN = 1, 1
QVE_ISVPRODID, QVE_ISVSVN = 2, 1
# An attribute of Intel's quoting enclave: it asks for PROVISION_KEY.
_QE_ATTRIBUTES = leaves.ATTR_MODE64BIT | leaves.ATTR_PROVISIONKEY


def _qe() -> Identity:
    """The identity of a quoting enclave that is no program: hashes of what it is called."""
    signer = hashlib.shake_256(b"the signer of softsgx's quoting enclave").digest(384)
    secs = SECS.pack(attributes=_QE_ATTRIBUTES, xfrm=leaves.XFRM_LEGACY)
    sigstruct = SIGSTRUCT.pack(modulus=signer, isvprodid=QE_ISVPRODID, isvsvn=QE_ISVSVN)
    mrenclave = hashlib.sha256(b"softsgx's quoting enclave, which proves nothing").digest()
    return Identity(SECS.unpack(secs), SIGSTRUCT.unpack(sigstruct), mrenclave)


QE = _qe()
"""The quoting enclave as keys, reports and verifiers see it."""


def _att_key_id(mrsigner: bytes) -> bytes:
    return ATT_KEY_ID.pack(
        mrsigner_length=32,
        mrsigner=mrsigner + bytes(16),
        prod_id=QE_ISVPRODID,
        algorithm_id=ALG_ECDSA_P256,
    )


ATT_KEY_IDS = (
    _att_key_id(QE.mrsigner),
    # DCAP, sgx_ql_core_wrapper.cpp, g_default_ecdsa_p256_att_key_id: libsgx_dcap_ql asks for the
    # key of Intel's quoting enclave whatever a service offers.
    _att_key_id(bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")),
)
"""By which names its attestation key is asked for; the first is what it is offered as."""


def qe_target_info() -> bytes:
    """TARGETINFO (512 bytes) of the quoting enclave: what a REPORT for it has to be made with."""
    return TARGETINFO.pack(
        measurement=QE.mrenclave,
        attributes=QE.attributes,
        xfrm=QE.xfrm,
        miscselect=QE.miscselect,
    )


class Platform:
    """One device as its certificates describe it.

    root: the device's 32 secret bytes. fmspc (6 bytes), ppid (16): what the root gives, if None.
    """

    def __init__(self, root: bytes, fmspc: bytes | None = None, ppid: bytes | None = None) -> None:
        self.root = root
        self.fmspc = derive(root, "FMSPC", FMSPC_SIZE) if fmspc is None else fmspc
        self.ppid = derive(root, "PPID", PPID_SIZE) if ppid is None else ppid
        for name, value, size in (
            ("FMSPC", self.fmspc, FMSPC_SIZE),
            ("PPID", self.ppid, PPID_SIZE),
        ):
            if len(value) != size:
                raise UsageError(f"{name}: {len(value)} bytes, not {size}")
        self.cpusvn, self.pcesvn, self.pceid = CPUSVN, PCESVN, PCEID

    @cached_property
    def instance_id(self) -> bytes:
        """16 bytes that name the platform as it is put together."""
        return derive(self.root, "platform instance ID", 16)

    @cached_property
    def qe_id(self) -> bytes:
        """16 bytes that name this device's quoting enclave, in a quote's user data."""
        return derive(self.root, "QE ID", 16)
