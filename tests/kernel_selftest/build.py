"""Build the kernel's SGX selftest, once a package version.

It is the strictest judge there is of a device with the 5.11+ interface, and it is GPL: so it is
run as Debian ships it and nothing of it is kept here.

    python -m tests.kernel_selftest.build linux-source-6.1

builds it and prints where test_sgx lies.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.cache import build, locked
from tests.kernel_sources import PACKAGES, SELFTEST, MissingSource, kernel_tree

__all__ = ["PACKAGES", "MissingSource", "Selftest", "selftest"]


class Selftest:
    """A built selftest: the Debian package it is from, and where it lies.

    ``tree`` is the part of the kernel's sources that is unpacked, ``directory`` the
    selftest's own in it.
    """

    def __init__(self, package: str, tree: Path) -> None:
        self.package = package
        self.tree = tree
        self.directory = directory = tree / SELFTEST
        self.program = directory / "test_sgx"
        """The program; it finds its enclave, test_encl.elf, beside itself."""

    def tests(self) -> list[str]:
        """The names of its tests as its source declares them, ``enclave.NAME``."""
        source = (self.directory / "main.c").read_text()
        return [
            f"enclave.{name}" for name in re.findall(r"^TEST_F\w*\(enclave, (\w+)", source, re.M)
        ]


def selftest(package: str) -> Selftest:
    """The selftest of `package` ("linux-source-6.1"), built if this is the first time.

    Raises MissingSource if the package isn't installed, BuildError if a build fails.
    """
    result = Selftest(package, kernel_tree(package))
    cache = result.tree.parent
    with locked(cache):
        if not (cache / "built").exists():
            # The OUTPUT is what lib.mk takes by default, in a make of its own.
            build(["make", "-C", result.directory, f"OUTPUT={result.directory}"])
            (cache / "built").touch()
    return result


if __name__ == "__main__":
    for _package in sys.argv[1:] or PACKAGES:
        print(selftest(_package).program)
