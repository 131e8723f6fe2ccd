"""The kernel's own SGX selftest, run unmodified: first as the machine is, then under softsgx.

The first run shows what the second proves: without softsgx nothing passes here.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.command import Softsgx
from tests.kernel_selftest.build import PACKAGES, MissingSource, Selftest, selftest
from tests.kernel_selftest.tap import parse_tap

# Two of its tests fill an enclave of the EPC's whole size, and one enters it for every
# page: the smallest EPC in which the others fit keeps that to seconds.
EPC = "16M"


@pytest.fixture(scope="session", params=PACKAGES)
def kernel(request: pytest.FixtureRequest) -> Selftest:
    """The built selftest of each kernel in turn."""
    try:
        return selftest(request.param)
    except MissingSource as e:
        pytest.skip(str(e))


def test_nothing_passes_without_softsgx(kernel: Selftest) -> None:
    if any(Path(node).exists() for node in ("/dev/sgx_enclave", "/dev/sgx/enclave")):
        pytest.skip("this machine has SGX; run on one without to see the selftest fail")
    done = subprocess.run(
        [kernel.program], cwd=kernel.directory, capture_output=True, text=True, check=False
    )
    result = parse_tap(done.stdout)
    assert done.returncode == 1
    assert result.passed == []
    assert (len(result.failed), len(result.skipped)) == (14, 2)
    assert set(result.skipped.values()) == {"SGX2 not supported"}
    assert set(result.failed) < set(kernel.tests())


def test_every_test_passes_under_softsgx(kernel: Selftest, softsgx: Softsgx) -> None:
    done = softsgx("--epc", EPC, "--", kernel.program, cwd=kernel.directory)
    result = parse_tap(done.stdout)
    assert result.passed == kernel.tests(), f"{result.summary()}\n{done.stdout}\n{done.stderr}"
    assert result.planned == len(result.passed) == 16
    assert done.returncode == 0
