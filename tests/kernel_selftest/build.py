"""Unpack and build the kernel's SGX selftest, once a package version.

It is the strictest judge there is of a device with the 5.11+ interface, and it is GPL:
so it is run as Debian ships it and nothing of it is kept here. Of the archive (1.4 GB
unpacked) only what its Makefile reaches is unpacked, 2 MB; the seconds go into reading
through the compressed archive.

    python -m tests.kernel_selftest.build linux-source-6.1

builds it and prints where test_sgx lies.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cache import build, cache_directory, locked

__all__ = ["PACKAGES", "MissingSource", "Selftest", "selftest"]

# Two generations: 6.1 links the test enclave with the assembler's addresses, 6.12 as a
# position-independent one with an entry for every operation.
PACKAGES = ("linux-source-6.1", "linux-source-6.12")

_SGX = "tools/testing/selftests/sgx"
_NEEDED = (
    "arch/x86/include/asm/enclu.h",
    "arch/x86/include/asm/sgx.h",
    "arch/x86/include/uapi/asm/sgx.h",
    "tools/include",
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/kselftest_harness.h",
    "tools/testing/selftests/lib.mk",
    _SGX,
    "tools/testing/selftests/x86/check_cc.sh",
    "tools/testing/selftests/x86/trivial_64bit_program.c",
)


class MissingSource(Exception):
    """Debian's package of kernel sources isn't installed; the text says how to."""


class Selftest:
    """A built selftest: the Debian package it is from, and where it lies.

    ``tree`` is the part of the kernel's sources that is unpacked, ``directory`` the
    selftest's own in it.
    """

    def __init__(self, package: str, tree: Path) -> None:
        self.package = package
        self.tree = tree
        self.directory = directory = tree / _SGX
        self.program = directory / "test_sgx"
        """The program; it finds its enclave, test_encl.elf, beside itself."""

    def tests(self) -> list[str]:
        """The names of its tests as its source declares them, ``enclave.NAME``."""
        source = (self.directory / "main.c").read_text()
        return [
            f"enclave.{name}" for name in re.findall(r"^TEST_F\w*\(enclave, (\w+)", source, re.M)
        ]


def _version(package: str, archive: Path) -> str:
    """What tells one content of `archive` from another: the package's version."""
    try:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # sources laid there by hand
        done = None
    if done is not None and done.returncode == 0 and done.stdout:
        return done.stdout
    stat = archive.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def selftest(package: str) -> Selftest:
    """The selftest of `package` ("linux-source-6.1"), built if this is the first time.

    Raises MissingSource if the package isn't installed, BuildError if a build fails.
    """
    archive = Path(f"/usr/src/{package}.tar.xz")
    if not archive.exists():
        raise MissingSource(f"no {archive}; to have these tests: apt-get install {package}")
    cache = cache_directory(f"{package}_{_version(package, archive)}")
    result = Selftest(package, cache / package)
    with locked(cache):
        if not (cache / "built").exists():
            _unpack(archive, cache, package)
            # The OUTPUT is what lib.mk takes by default, in a make of its own.
            build(["make", "-C", result.directory, f"OUTPUT={result.directory}"])
            (cache / "built").touch()
    return result


def _unpack(archive: Path, cache: Path, package: str) -> None:
    """Put the needed part of `archive` into `cache`; a failed build's leftover goes."""
    shutil.rmtree(cache / package, ignore_errors=True)
    members = [f"{package}/{name}" for name in _NEEDED]
    build(
        ["tar", "-xf", archive, "-C", cache, "--no-same-owner", *members],
        env={"XZ_DEFAULTS": f"--threads={os.cpu_count() or 1}"},
    )


if __name__ == "__main__":
    for _package in sys.argv[1:] or PACKAGES:
        print(selftest(_package).program)
