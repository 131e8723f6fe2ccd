"""What the commands that explore a world (``check``, ``repair``) have in common: their options.

The imports of the checker wait until a command needs them.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import Any

from softsgx.cli.load import blame, is_loaded, load_files
from softsgx.complaints import complain
from softsgx.errors import SoftsgxError, UsageError

__all__ = ["WorldParser", "checked_design", "design_of", "world_of"]


class WorldParser(argparse.ArgumentParser):
    """A parser of designs, properties and the size of the world; a mistake is a UsageError."""

    def __init__(self, command: str, description: str, designs: str) -> None:
        super().__init__(
            f"softsgx {command}", description=description, allow_abbrev=False,
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=100),
        )  # fmt: skip
        add = self.add_argument
        add("designs", nargs="*", metavar="DESIGN[:OPTION=VALUE,…]", help=designs)
        add("--property", action="append", metavar="NAME", help="default: all; repeatable")
        add("--processes", type=int, default=2, metavar="N", help="default 2")
        add("--pages", type=int, default=2, metavar="N", help="default 2")
        add("--timeout", type=int, default=60, metavar="S", help="for one question")
        add("--load", action="append", default=[], metavar="FILE.py",
            help="take designs and properties from a file, too")  # fmt: skip
        add("--json", action="store_true", help="a list of objects on standard output")
        add("--jobs", type=int, default=0, metavar="N", help="default: one a processor")

    def error(self, message: str) -> Any:
        """Raise UsageError."""
        raise UsageError(f"{message}; see '{self.prog} --help'")


def world_of(args: Any, bounds: dict[str, tuple[int, int]] | None = None) -> list[str]:
    """Check a `WorldParser`'s arguments: the designs of the files that were loaded.

    bounds: the least and the most of further numbers. ``args.jobs`` becomes their number.
    Raises UsageError.
    """
    from softsgx.checker.properties import PROPERTIES

    loaded = load_files(args.load)
    usual = {"pages": (1, 8), "processes": (1, 8), "timeout": (1, 86400), "jobs": (0, 1024)}
    for name, (least, most) in (usual | (bounds or {})).items():
        value = getattr(args, name)
        if not least <= value <= most:
            raise UsageError(f"--{name} is from {least} to {most}, not {value}")
    for name in args.property or ():
        if name not in PROPERTIES:
            raise UsageError(f"no property {name!r}; there are {', '.join(PROPERTIES)}")
    args.jobs = args.jobs or len(os.sched_getaffinity(0))
    return loaded


def checked_design(text: str) -> Any:
    """`design_of`, and a line for each ioctl of its own that the checker has no move for.

    Raises UsageError where it finds no EADD in it.
    """
    from softsgx.checker.world.loading import eadd_rules

    design = design_of(text)
    known = eadd_rules(design)
    for row in design.ioctls:
        if row.rule not in known and getattr(design, row.rule, None) is not None:
            complain(f"design {design.name}: nothing explored makes a call of {row.name}")
    return design


def design_of(text: str) -> Any:
    """A design; what a class of the user's own raises is the user's mistake."""
    from softsgx.designs.registry import DESIGNS, make_design

    try:
        return make_design(text)
    except SoftsgxError:
        raise
    except Exception as e:
        cls = DESIGNS.get(text.partition(":")[0])
        if cls is None or not is_loaded(cls):
            raise
        path = str(sys.modules[cls.__module__].__file__)
        where = blame(e, [path]) or path
        raise UsageError(f"{where}: design {text}: {type(e).__name__}: {e}") from e
