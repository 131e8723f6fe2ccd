"""Repairs: the fewest changes are found, all of a design's prove everything, and each is needed."""

from __future__ import annotations

import json
from errno import EPERM
from pathlib import Path
from typing import Any, ClassVar

import pytest

from softsgx.checker.pool.repair import ALL, changes_of, search, standing
from softsgx.checker.pool.result import Options
from softsgx.checker.properties import PROPERTIES
from softsgx.cli.main import main
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.law.rule import Context
from tests.checker.checker_toys import Careful
from tests.checker.needs import needs_abc

pytestmark = needs_abc
REPAIRED = [name for name, cls in DESIGNS.items() if cls.repaired]
SMALL = Options(1, 1)


class Loose(Careful):
    """The careful toy with three locks, of which two each close one hole, and one closes none."""

    name = "loose"
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        "source": ("prot",), "open": ("rdonly",),
        "asks": ("nothing", "read", "execute"), "sealed": ("off", "on"), "paint": ("red", "blue"),
    }  # fmt: skip

    def driver_unmap(self, k: Context, at: Any, r: Any) -> None:
        if self.chosen["sealed"] == "on":
            super().driver_unmap(k, at, r)

    def ioc_mprotect(self, k: Context, at: Any, r: Any) -> None:
        if self.chosen["asks"] == "execute":
            super().ioc_mprotect(k, at, r)
        else:
            if self.chosen["asks"] == "read":
                k.ask("file_mprotect", at, reqprot=1, prot=1)
            k.need(EPERM, at.page.present)
            k.need(EPERM, (r.prot & at.page.vm_may) ^ r.prot ^ 7)  # some bit is allowed
            at.vma.prot = r.prot & at.page.vm_may


def test_sets_of_changes_grow_and_leave_what_is_chosen() -> None:
    sizes = list(changes_of(Loose, {"source": "prot", "open": "rdonly", "asks": "read",
                                    "sealed": "off", "paint": "blue"}))  # fmt: skip
    assert [len(sets) for sets in sizes[:4]] == [1, 4, 5, 2]
    assert sizes[1] == [{"asks": "nothing"}, {"asks": "execute"}, {"sealed": "on"},
                        {"paint": "red"}]  # fmt: skip


def test_the_fewest_changes_that_mend_a_toy() -> None:
    found = {r.property: r for r in search(Loose(), ["asked", "elrange-fixed", "no-wx"], SMALL)}
    assert found["asked"].sets == [{"asks": "execute"}]
    assert found["elrange-fixed"].sets == [{"sealed": "on"}]
    assert (found["no-wx"].before, found["no-wx"].sets) == ("proved", [])
    assert found[ALL].sets == [{"asks": "execute", "sealed": "on"}]
    assert found[ALL].tried > found["asked"].tried > 1


def test_what_no_option_mends_is_said() -> None:
    (found,) = search(make_design("v20"), ["elrange-fixed"], SMALL)
    assert (found.before, found.sets, found.tried) == ("refuted", [], 0)
    (found,) = search(make_design("ioc-mprotect:elrange=sealed"), ["noexec"], SMALL)
    assert found.sets == [{"source_may": "noexec"}]  # and not "kept", which is stronger


def test_the_fewest_changes_of_the_seeds_design() -> None:
    """One question asked in earnest, and a fault that looks at what was asked."""
    design = make_design("ioc-mprotect:source=prot,open=rdonly")
    found = {r.property: r for r in search(design, ["wx-needs-write", "page-bound"], SMALL)}
    assert found["wx-needs-write"].sets == [{"vm_shared": "always", "fault": "asked"}]
    assert found["page-bound"].sets == [{"fault": "bound"}]


@pytest.mark.parametrize("name", REPAIRED)
def test_a_repaired_design_keeps_every_property(name: str) -> None:
    design = make_design(f"{name}:repaired")
    kept = dict.fromkeys(PROPERTIES, "proved")
    if name == "safe-to-execute":
        kept["page-bound"] = "vacuous"  # it has no maximum of a page
    assert dict(standing(design)) == kept


@pytest.mark.parametrize(
    ("name", "option"), [(n, o) for n in REPAIRED for o in DESIGNS[n].repaired]
)
def test_each_repair_is_needed(name: str, option: str) -> None:
    """With the next weaker value something is refuted, or can never run."""
    cls = DESIGNS[name]
    values = cls.options[option]
    weaker = values[values.index(cls.repaired[option]) - 1]
    design = cls(**(cls.repaired | {option: weaker}))
    # What the options leave without a maximum is no loss.
    names = [n for n in PROPERTIES if n != "page-bound" or name != "safe-to-execute"]
    assert any(verdict != "proved" for _, verdict in standing(design, names, Options(1, 2)))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["repair", "segments", "--property", "noexec", "--property", "asked", "--pages", "1"]
    assert main([*args, "--processes", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["property"], r["before"], r["sets"]) for r in rows] == [
        ("noexec", "refuted", [{"source": "may"}]), ("asked", "proved", []),
    ]  # fmt: skip
    assert main([*args, "--processes", "1"]) == 0
    assert "noexec          refuted  source=may\n" in capsys.readouterr().out


def test_the_command_says_what_cannot_be_mended(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "painted.py"
    file.write_text(
        "from softsgx.designs.linux import Linux60\n"
        "class Painted(Linux60):\n"
        "    name = 'painted'\n"
        "    options = {'paint': ('red', 'blue')}\n"
    )
    one = ["--property", "elrange-fixed", "--pages", "1", "--processes", "1"]
    try:
        assert main(["repair", "--load", str(file), *one]) == 1
    finally:
        DESIGNS.pop("painted", None)
    out = capsys.readouterr().out
    assert out == "painted\n  elrange-fixed   refuted  none of 1 sets of options mends it\n"


@pytest.mark.parametrize(
    "wrong",
    [["v20"], ["nosuch"], ["--property", "nosuch"], ["--pages", "0"], ["--frobnicate"],
     ["--load", "/nonexistent.py"], ["--timeout", "-1"]],
)  # fmt: skip
def test_bad_arguments(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repair", *wrong]) == 2
    assert capsys.readouterr().err.startswith("softsgx: ")
