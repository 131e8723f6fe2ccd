"""The reader of the kernel's TAP: it must not take a dead selftest for a good one."""

from __future__ import annotations

import pytest

from tests.kernel_selftest.tap import parse_tap

TAP = """\
TAP version 13
1..5
# Starting 5 tests from 1 test cases.
#  RUN           enclave.one ...
#            OK  enclave.one
ok 1 enclave.one
not ok 2 enclave.two
ok 3 enclave.three # SKIP SGX2 not supported
ok 4 enclave.four # skip
ok 5 # SKIP no name
# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:2 error:0
"""


def test_each_result_goes_where_it_belongs() -> None:
    result = parse_tap(TAP)
    assert result.planned == 5
    assert result.passed == ["enclave.one"]
    assert result.failed == ["enclave.two"]
    assert result.skipped == {
        "enclave.three": "SGX2 not supported",
        "enclave.four": "",
        "#5": "no name",
    }
    assert result.summary().startswith("1 of 5 passed; failed: enclave.two; skipped: enclave.th")


def test_diagnostics_are_no_results() -> None:
    result = parse_tap("#            OK  enclave.one\n  ok 1 enclave.one\nlook: ok 1 enclave.one\n")
    assert (result.planned, result.passed, result.failed) == (None, [], [])


@pytest.mark.parametrize("line", ["1..2", "ok 1 enclave.one", "not ok 1 enclave.two"])
def test_a_contradiction_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="a second"):
        parse_tap(f"1..2\nok 1 enclave.one\n{line}\n")
