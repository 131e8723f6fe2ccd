"""The design in docs/how-to-add-a-design.md is one: it can be told, and it does what it says."""

from __future__ import annotations

import re
from errno import EACCES
from typing import Any

import pytest

from softsgx.device import Device
from softsgx.device.build import Segment, add_segment, create
from softsgx.report.rules import rule_lines
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED
from tests.cache import ROOT

BASE, SIZE = 0x7000_0000_0000, 0x4000
R, W, X = 1, 2, 4


@pytest.fixture(scope="module")
def vetted() -> Any:
    text = (ROOT / "docs" / "how-to-add-a-design.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(source, "how-to-add-a-design.md", "exec"), names)
    return names["Vetted"]


class Asked:
    """An LSM that denies EXECMOD."""

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        return EACCES if hook == "file_execmod" else 0


def _mapped(design: Any, source_prot: int, lsm: Any = None) -> int:
    """The answer to an executable mapping of a page that was added from such memory."""
    process = Device(design, lsm=lsm).process()
    fd = process.open("/dev/sgx_enclave")
    create(process, fd, BASE, SIZE)
    add_segment(process, fd, Segment(0, b"\xc3", R | X, source_prot=source_prot))
    answer = process.mmap(BASE, 0x1000, R | X, MAP_SHARED | MAP_FIXED, fd)
    return answer if answer < 0 else 0


def test_it_can_be_told_in_words(vetted: Any) -> None:
    asked = rule_lines(vetted(), "may_map")[-1]
    want = "if some page has (X ∈ prot and not (page.present and page.vetted)): "
    assert asked == want + "ask LSM file_execmod()"
    assert rule_lines(vetted(), "add_page")[-1] == "page.vetted := X ∈ source.prot"


def test_it_does_what_it_says(vetted: Any) -> None:
    assert _mapped(vetted(), R | X, Asked()) == 0
    assert _mapped(vetted(), R | W, Asked()) == -EACCES
    assert _mapped(vetted(), R | W) == 0
    assert _mapped(vetted(unvetted="refuse"), R | X) == 0
    assert _mapped(vetted(unvetted="refuse"), R | W) == -EACCES
