"""``softsgx include``: where the header of the new ioctls is."""

from __future__ import annotations

import os

from softsgx.cli.options import given

__all__ = ["include"]

HELP = """\
usage: softsgx include

Print the directory of softsgx_designs.h: the ioctls of the designs that never shipped.

  gcc -I"$(softsgx include)" loader.c
"""


def include(args: list[str]) -> int:
    """Print the directory."""
    if given("include", HELP, args) is None:
        return 0
    print(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "include"))
    return 0
