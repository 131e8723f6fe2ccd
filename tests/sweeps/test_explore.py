"""softsgx explore: two loaders, of which one goes on from the wrong source after a short count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command import Softsgx

Guest = Callable[[str], Path]


def _explored(softsgx: Softsgx, *args: str | Path, status: int) -> dict[str, Any]:
    done = softsgx.command("explore", "--json", "--times", "1", "--steps", "2", *args)
    assert done.returncode == status, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_wrong_retry_is_found_by_the_shortest_rule(guest: Guest, softsgx: Softsgx) -> None:
    found = _explored(softsgx, "--", guest("shortcount"), "wrong", status=1)
    weak = [(f["rule"], f["outcome"]) for f in found["faults"] if f["weak"]]
    assert weak == [("ADD_PAGES:short", "gave up")]
    assert found["places"]["ADD_PAGES"] == 7


def test_the_right_retry_lives_with_all(guest: Guest, softsgx: Softsgx) -> None:
    found = _explored(softsgx, "--all", "--", guest("shortcount"), "right", status=0)
    rows = {f["rule"]: f["outcome"] for f in found["faults"]}
    assert rows["ADD_PAGES:short"] == rows["INSIDE:aex"] == "as without"
    assert rows["ADD_PAGES:ENOMEM"] == rows["EENTER:suspend"] == "gave up"


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ((), "needs a program"),
        (("--times", "0", "--", "true"), "--times 0: a number from 1 to 99999"),
        (("--nothing", "--", "true"), "no option --nothing"),
        (("--seed", "3", "--", "true"), "--seed"),
        (("--design", "none", "--", "true"), "no design"),
        (("--", "/nowhere/x"), "/nowhere/x"),
        (("--", "false"), "fails without any fault (status 1"),
    ],
)
def test_a_mistake_is_a_line(args: tuple[str, ...], why: str, softsgx: Softsgx) -> None:
    done = softsgx.command("explore", *args)
    assert done.returncode == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
