"""Compile the SGX driver of Debian's kernel sources, as it is, into a library for tests.

driver.c, ioctl.c and encl.c see the headers of this folder in place of the kernel's: for each
header that they include and the kernel's SGX folders lack, a file is written that stands for
kernel.h. Only asm/sgx.h, uapi/asm/sgx.h and the driver's own are the kernel's.

    python -m tests.kernel_driver.build

builds both and prints where they lie.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from tests.cache import build, locked
from tests.kernel_sources import DRIVER, PACKAGES, kernel_tree

__all__ = ["driver_library"]

_HERE = Path(__file__).resolve().parent
_OURS = ("driver_ioctl.c", "encls.c", "judge.c", "judge_mm.c", "kernel.c")
_THEIRS = ("driver.c", "encl.c")
_HEADERS = ("encls.h", "judge.h", "kernel.h")
_FLAGS = (
    "-shared", "-fPIC", "-O2", "-std=gnu11", "-fno-strict-aliasing", "-Wno-attributes",
    "-Werror=implicit-function-declaration", "-Werror=implicit-int", "-Werror=int-conversion",
)  # fmt: skip


def _ours() -> str:
    """What tells one state of this folder's code from another."""
    text = b"".join((_HERE / name).read_bytes() for name in (*_OURS, *_HEADERS, "build.py"))
    return hashlib.sha256(text).hexdigest()[:16]


def _stand_ins(tree: Path, folder: Path) -> None:
    """Write the headers that are included and not there: each is kernel.h."""
    includes: set[str] = set()
    sources = [
        *(tree / DRIVER / name for name in ("driver.c", "ioctl.c", "encl.c")),
        *(tree / DRIVER).glob("*.h"),
        tree / "arch/x86/include/asm/sgx.h",
        tree / "arch/x86/include/uapi/asm/sgx.h",
    ]
    for source in sources:
        includes |= set(re.findall(r"^#include <(.+)>", source.read_text(), re.M))
    for name in includes:
        if not (tree / "arch/x86/include" / name).exists():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('#include "kernel.h"\n')


def driver_library(package: str) -> Path:
    """The library of `package` ("linux-source-6.12"), built if this is the first time.

    Raises `tests.kernel_sources.MissingSource` if the package isn't installed, BuildError if
    it does not compile.
    """
    tree = kernel_tree(package)
    folder = tree.parent / "driver"
    library = folder / f"driver-{_ours()}.so"
    with locked(tree.parent):
        if not library.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _stand_ins(tree, folder / "include")
            folders = [_HERE, tree / DRIVER, tree / "arch/x86/include", folder / "include"]
            sources = [_HERE / name for name in _OURS] + [tree / DRIVER / name for name in _THEIRS]
            options = [f"-I{path}" for path in folders]
            build(["gcc", *_FLAGS, "-include", "encls.h", *options, "-o", f"{library}~", *sources])
            Path(f"{library}~").rename(library)
    return library


if __name__ == "__main__":
    for _package in PACKAGES:
        print(driver_library(_package))
