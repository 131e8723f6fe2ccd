"""The parts of Debian's kernel sources that tests build, unpacked once a package version.

What is unpacked is GPL: it is built and run as Debian ships it, in the cache, and nothing of it
is kept here. Of the archive (1.4 GB unpacked) only what the builds reach is unpacked, 2 MB; the
seconds go into reading through the compressed archive, once for all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.cache import build, cache_directory, locked

__all__ = ["DRIVER", "PACKAGES", "SELFTEST", "MissingSource", "kernel_tree"]

# Two generations. Of the selftest, 6.1 links the test enclave with the assembler's addresses,
# 6.12 as a position-independent one with an entry for every operation; of the driver, 6.12 knows
# AEX-Notify.
PACKAGES = ("linux-source-6.1", "linux-source-6.12")

SELFTEST = "tools/testing/selftests/sgx"
"""The folder of the kernel's SGX selftest in a tree."""
DRIVER = "arch/x86/kernel/cpu/sgx"
"""The folder of the kernel's SGX driver in a tree."""

_NEEDED = (
    "Makefile",
    "arch/x86/include/asm/enclu.h",
    "arch/x86/include/asm/sgx.h",
    "arch/x86/include/uapi/asm/sgx.h",
    DRIVER,
    "tools/include",
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/kselftest_harness.h",
    "tools/testing/selftests/lib.mk",
    SELFTEST,
    "tools/testing/selftests/x86/check_cc.sh",
    "tools/testing/selftests/x86/trivial_64bit_program.c",
)


class MissingSource(Exception):
    """Debian's package of kernel sources isn't installed; the text says how to."""


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


def kernel_tree(package: str) -> Path:
    """The tree of `package` ("linux-source-6.1"), in a cache directory of its own (its parent).

    Raises MissingSource if the package isn't installed, BuildError if unpacking fails.
    """
    archive = Path(f"/usr/src/{package}.tar.xz")
    if not archive.exists():
        raise MissingSource(f"no {archive}; to have these tests: apt-get install {package}")
    cache = cache_directory(f"{package}_{_version(package, archive)}")
    tree = cache / package
    with locked(cache):
        done = cache / "unpacked"
        if not done.exists() or done.read_text().split("\n") != list(_NEEDED):
            shutil.rmtree(tree, ignore_errors=True)
            (cache / "built").unlink(missing_ok=True)
            members = [f"{package}/{name}" for name in _NEEDED]
            build(
                ["tar", "-xf", archive, "-C", cache, "--no-same-owner", *members],
                env={"XZ_DEFAULTS": f"--threads={os.cpu_count() or 1}"},
            )
            done.write_text("\n".join(_NEEDED))
    return tree
