"""docs/selftest-by-design.md is what the kernel's selftest does: the quick rows are run again.

The whole page takes minutes: ``tools/selftest_by_design.py > docs/selftest-by-design.md``.
"""

from __future__ import annotations

import re
from errno import EINVAL

import pytest

from softsgx.designs.registry import DESIGNS, make_design
from softsgx.device import Device
from softsgx.uapi.mman import MAP_SHARED
from tests.cache import ROOT
from tests.kernel_selftest.build import MissingSource, Selftest, selftest
from tools.selftest_by_design import PACKAGE, Run

PAGE = (ROOT / "docs" / "selftest-by-design.md").read_text()


def _counts() -> dict[str, tuple[int, int]]:
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    return {design: (int(plain), int(carried)) for design, plain, carried in rows}


def test_every_design_has_its_row() -> None:
    assert {design.partition(":")[0] for design in _counts()} == set(DESIGNS)
    assert _counts()["linux-6.12"] == _counts()["linux-6.0"] == (16, 16)


def test_the_matrix_agrees_with_the_counts() -> None:
    (head,) = re.findall(r"^\| test \|(.*)\|$", PAGE, re.MULTILINE)
    designs = [name.strip(" `") for name in head.split("|")]
    rows = re.findall(r"^\| \w+ \|((?: [●○—] \|)+)$", PAGE, re.MULTILINE)
    assert len(rows) == 16
    for i, design in enumerate(designs):
        marks = [row.split("|")[i].strip() for row in rows]
        plain, either = marks.count("●"), 16 - marks.count("—")
        assert (plain, either) == _counts()[design], design


@pytest.fixture(scope="module")
def kernel() -> Selftest:
    try:
        return selftest(PACKAGE)
    except MissingSource as e:
        pytest.skip(str(e))


@pytest.mark.parametrize("design", ["v20", "segments", "ioc-mprotect"])
def test_a_loader_of_today_stops_at_once_under_the_designs_of_2019(
    design: str, kernel: Selftest
) -> None:
    run = Run(design, False, kernel)
    assert len(run.passed) == _counts()[design][0] == 0
    assert re.search(rf"^### `{design}`, (as it is|with and without `--carry-out`)$", PAGE, re.M)
    stops = {reason for reasons in run.refusals.values() for reason in reasons}
    assert all(f"| {' | '.join(reason)} |" in PAGE for reason in stops), stops


@pytest.mark.parametrize("design", ["segments:mmap_before_ecreate=on", "ioc-mprotect"])
def test_carried_out_it_gets_as_far_as_the_page_says(design: str, kernel: Selftest) -> None:
    run = Run(design, True, kernel)
    assert len(run.passed) == _counts()[design][1]
    assert set(kernel.tests()) - run.passed == {"enclave.tcs_create"}


@pytest.mark.parametrize("prot", [1, 4])
def test_the_device_may_be_tried_with_one_page(prot: int) -> None:
    """The selftest's check for noexec, before CREATE: carried out as PROT_NONE, where asked."""
    for carry_out in (False, True):
        process = Device(make_design("ioc-mprotect"), carry_out=carry_out).process()
        fd = process.open("/dev/sgx_enclave")
        file = process.files[fd]
        got = process.device.mmap(process, 0, 4096, prot, MAP_SHARED, file, 0, 0x10000)
        assert got.ret == (0x10000 if carry_out else -EINVAL)
        assert [vma.prot for vma in process.mm] == [0] * carry_out
