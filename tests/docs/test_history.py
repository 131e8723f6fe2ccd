"""docs/history.md is what the checker's answers and the mails make of it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

from softsgx.checker.properties import PROPERTIES
from softsgx.designs.registry import DESIGNS, make_design
from tests.cache import ROOT
from tests.docs.pages import held
from tools.console import sessions
from tools.history import TOLD, answers, changes, page, steps

PAGE = ROOT / "docs" / "history.md"


def test_the_committed_page_is_what_the_answers_say() -> None:
    """test_findings.py holds the answers against the checker."""
    assert page() == PAGE.read_text(), "to mend it: .venv/bin/python tools/history.py"


def test_every_design_has_its_step_and_every_answer_its_row() -> None:
    told = tomllib.loads(TOLD.read_text())["step"]
    untold = set(DESIGNS) - {step["design"].partition(":")[0] for step in told}
    assert untold == set(), f"what was it an answer to? tell it in {TOLD.relative_to(ROOT)}"
    text = PAGE.read_text()
    for design, row in answers().items():
        make_design(design)
        assert set(row) <= set(PROPERTIES)
        name = design.partition(":")[0]
        assert text.count(f"\n| [`{design}`](designs/{name}.md) | ") == 1


def test_each_step_cites_a_mail_and_answers_one_before_it() -> None:
    before: list[str] = []
    for step in steps(answers()):
        assert step.get("mail") or step["design"] == "linux-6.12"  # whose rules cite commits
        assert all(
            "@" in mail and f"`<{mail}>`" in PAGE.read_text() for mail in step.get("mail", ())
        )
        reading = step["after"] in before or not before
        assert reading, f"{step['design']} answers {step['after']}, which comes later"
        before += [step["design"], *step.get("also", ())]


def test_what_closes_and_what_opens() -> None:
    """A hole that is gone, one that is new, one that stays, and what nobody can do any more."""
    found = {
        "v20": {"noexec": "**no** 6", "asked": "yes", "no-wx": "**no** 4", "page-bound": "yes",
                "source-bound": "**no** 5", "told-apart": "vacuous"},
        "mine": {"noexec": "yes, 2 pages", "asked": "**no** 3", "no-wx": "**no** 9",
                 "page-bound": "vacuous", "source-bound": "vacuous", "told-apart": "**no**"},
    }  # fmt: skip
    of = "beside [`v20`](designs/v20.md)"
    assert list(changes("mine", "v20", found)) == [
        f"- **Closes,** {of}: `noexec`, `source-bound` (of nothing).",
        f"- **Opens,** {of}: `asked` in 3 steps, `told-apart`.",
        "- **Has nothing to say of** `page-bound` any more.",
    ]
    (neither,) = changes("mine", "mine", found)
    assert neither.startswith("- **Neither closes nor opens**")
    traced = "[`noexec` in 6 steps](findings/v20.md#noexec-is-refuted-in-6-steps)"
    only = {"v20": {"noexec": "**no** 6", "no-wx": "**no** 4", "told-apart": "vacuous"}}
    assert list(changes("v20", "", only)) == [
        f"- **Open:** {traced}, `no-wx` in 4 steps.",
        "- **Nothing to say of** `told-apart`.",
    ]


def test_its_runs_are_what_happens(guest: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "orders").symlink_to(guest("orders"))
    shown = sessions(PAGE.read_text())
    assert len(shown) == 3
    held(shown, tmp_path)
