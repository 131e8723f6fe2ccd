"""``softsgx check`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softsgx.checker.abc import find_abc
from softsgx.checker.permissions import parse_permissions
from softsgx.cli.main import main
from softsgx.designs.registry import DESIGNS
from softsgx.errors import UsageError

needs_abc = pytest.mark.skipif(
    find_abc() is None, reason="berkeley-abc is missing: apt-get install berkeley-abc"
)
SMALL = ["--pages", "1", "--processes", "1", "--jobs", "1"]


@needs_abc
def test_status_and_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = ["--property", "asked", "--property", "source-bound"]
    status = main(["check", "linux-6.0", *names, *SMALL, "--json", "--trace-dir", str(tmp_path)])
    results = json.loads(capsys.readouterr().out)
    assert status == 1
    assert [(r["design"], r["property"], r["verdict"]) for r in results] == [
        ("linux-6.0", "asked", "proved"), ("linux-6.0", "source-bound", "refuted"),
    ]  # fmt: skip
    keys = {"design", "options", "property", "verdict", "bound", "steps", "permissions", "method"}
    assert keys | {"seconds", "vacuous", "benign"} <= set(results[0])
    (written,) = tmp_path.iterdir()
    trace = json.loads(written.read_text())
    assert [s["words"] for s in trace["steps"]] == results[1]["steps"]
    assert main(["check", "linux-6.0", "--property", "asked", *SMALL]) == 0
    assert "proved" in capsys.readouterr().out


@needs_abc
def test_permissions_that_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["check", "source-vma", "--property", "asked", *SMALL, "--json"]
    for held, verdict in (("0:none", "proved"), ("0:device=read;file=execute", "refuted")):
        main([*args, "--permissions", held])
        (result,) = json.loads(capsys.readouterr().out)
        assert result["verdict"] == verdict


def test_permissions_in_words() -> None:
    held = parse_permissions("1:device=read,execmod;segment-rx=write", 2)
    assert held["may1.device"] == 9
    assert held["may1.segment5"] == 2
    assert held["may1.process"] == 0
    for wrong in ("2:none", "device=read", "0:disk=read", "0:device=fly", "0:device"):
        with pytest.raises(UsageError):
            parse_permissions(wrong, 2)


@pytest.mark.parametrize(
    "args",
    [["nosuch"], ["linux-6.0:x=y"], ["--property", "nosuch"], ["--pages", "0"], ["--pages", "x"],
     ["--frobnicate"], ["--permissions", "7:none"], ["--load", "/nonexistent.py"]],
)  # fmt: skip
def test_bad_arguments(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *args]) == 2
    assert capsys.readouterr().err.startswith("softsgx: ")


@needs_abc
def test_a_design_and_a_property_from_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from softsgx.checker.properties.base import PROPERTIES, prop\n"
        "from softsgx.designs.linux import Linux60\n"
        "class Mine(Linux60):\n"
        "    name = 'mine'\n"
        "@prop('opened', 'nobody opens the device', source='a test', unless='')\n"
        "def conditions(world):\n"
        "    yield world.now('enclave.opened')\n"
    )
    from softsgx.checker.properties import PROPERTIES

    try:
        args = ["--load", str(file), "--property", "opened", *SMALL, "--json"]
        assert main(["check", *args]) == 1
        (result,) = json.loads(capsys.readouterr().out)
        assert (result["design"], len(result["steps"])) == ("mine", 1)
    finally:
        DESIGNS.pop("mine", None)
        PROPERTIES.pop("opened", None)


def test_the_list_of_properties(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--list"]) == 0
    assert "told-apart" in capsys.readouterr().out
