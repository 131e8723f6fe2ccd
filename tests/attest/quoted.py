"""A quote of a real (if small) enclave, and dcap-qvl's word on it, which is not ours."""

from __future__ import annotations

import json
import runpy
from functools import cache
from typing import Any

import dcap_qvl
import pytest

from softsgx.attest.collateral import Collateral, Conditions
from softsgx.attest.quoting import Quoting
from softsgx.device import Device
from tests.cache import ROOT

__all__ = ["NOW", "ROOT_KEY", "collateral", "device", "ereport", "quote", "verify"]

ROOT_KEY = bytes(range(32))
NOW = 1_800_000_000


@cache
def device() -> Device:
    """The device of ``ROOT_KEY``."""
    return Device(key_root=ROOT_KEY)


@cache
def _example() -> Any:
    """The example, without the second that a new RSA key takes."""
    key = (ROOT / "tests/data/sigstruct/test-key.pem").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softsgx.sdm.sigstruct.new_key", lambda: key)
        return runpy.run_path(str(ROOT / "examples/quote.py"))["report"]


@cache
def ereport(of: Device, data: bytes = b"data") -> bytes:
    """What EREPORT writes in the example's enclave, for the quoting enclave."""
    made: bytes = _example()(of, data)
    return made


@cache
def quote() -> bytes:
    """The quote of such a REPORT."""
    return device().quote(ereport(device()))


def collateral(of: Quoting | None = None, **conditions: Any) -> dcap_qvl.QuoteCollateralV3:
    """The collateral as dcap-qvl reads what is printed."""
    certificates = (of or device().quoting).certificates
    document = Collateral(certificates, Conditions(NOW, **conditions)).document()
    return dcap_qvl.QuoteCollateralV3.from_json(json.dumps(document))


def verify(
    raw: bytes,
    what: dcap_qvl.QuoteCollateralV3 | None = None,
    root: bytes | None = None,
    now: int = NOW,
) -> str:
    """The status that dcap-qvl finds. Raises ValueError where it refuses."""
    root = device().quoting.certificates.root.der if root is None else root
    report = dcap_qvl.verify_with_root_ca(raw, what or collateral(), root, now)
    return str(report.status)
