"""docs/selftest-by-design.md is what the kernel's selftest does: the quick rows are run again.

The whole page takes minutes: ``tools/selftest_by_design.py > docs/selftest-by-design.md``.
"""

from __future__ import annotations

import re

import pytest

from softsgx.designs.registry import DESIGNS
from tests.cache import ROOT
from tests.kernel_selftest.build import MissingSource, selftest
from tools.selftest_by_design import PACKAGE, Run

PAGE = (ROOT / "docs" / "selftest-by-design.md").read_text()


def _counts() -> dict[str, tuple[int, int]]:
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    return {design: (int(plain), int(carried)) for design, plain, carried in rows}


def test_every_design_has_its_row() -> None:
    assert {design.partition(":")[0] for design in _counts()} == set(DESIGNS)
    assert _counts()["linux-6.0"] == (16, 16)


def test_the_matrix_agrees_with_the_counts() -> None:
    (head,) = re.findall(r"^\| test \|(.*)\|$", PAGE, re.MULTILINE)
    designs = [name.strip(" `") for name in head.split("|")]
    rows = re.findall(r"^\| \w+ \|((?: [●○—] \|)+)$", PAGE, re.MULTILINE)
    assert len(rows) == 16
    for i, design in enumerate(designs):
        marks = [row.split("|")[i].strip() for row in rows]
        plain, either = marks.count("●"), 16 - marks.count("—")
        assert (plain, either) == _counts()[design], design


@pytest.mark.parametrize("design", ["v20", "segments", "ioc-mprotect"])
def test_a_loader_of_today_stops_at_once_under_the_designs_of_2019(design: str) -> None:
    try:
        kernel = selftest(PACKAGE)
    except MissingSource as e:
        pytest.skip(str(e))
    run = Run(design, False, kernel)
    assert len(run.passed) == _counts()[design][0] == 0
    assert re.search(rf"^### `{design}`, (as it is|with and without `--carry-out`)$", PAGE, re.M)
    stops = {reason for reasons in run.refusals.values() for reason in reasons}
    assert all(f"| {' | '.join(reason)} |" in PAGE for reason in stops), stops
