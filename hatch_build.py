"""Build hook: compile what is not Python (host/*.[cS], interleave.c and dcap_ql.c) with gcc.

The objects need no Python headers, so one gcc call each is the whole build; setuptools or
meson would be a second build system for it. They are written beside
their sources, where an editable install finds them as well, and go into the wheel as
artifacts. ``python hatch_build.py`` does the same without an install.
"""

from __future__ import annotations

import compileall
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class BuildHookInterface:
        """What is used of hatchling's class, which need not be installed to run this file."""

        root: str
        metadata: Any

else:
    try:
        from hatchling.builders.hooks.plugin.interface import BuildHookInterface
    except ImportError:  # run as a script
        BuildHookInterface = object

__all__ = [
    "BuildError", "VdsoBuildHook", "build_accepts", "build_adds", "build_copyin", "build_dcap_ql",
    "build_execs", "build_interleave", "build_paths", "build_series", "build_short", "build_start",
    "build_vdso",
]  # fmt: skip

_HOST = Path("src/softsgx/host")
_INTERLEAVE = Path("src/softsgx/sgx/interleave.c")
_INTERLEAVE_OBJECT = _INTERLEAVE.with_name("softsgx-interleave.so")
_DCAP_QL = Path("src/softsgx/dcap_ql/dcap_ql.c")
_DCAP_QL_OBJECT = _DCAP_QL.with_name("libsgx_dcap_ql.so.1")
_USUAL = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden"]
# Not vdso.so: Python would import that as the module vdso.
_OBJECT = _HOST / "softsgx-vdso.so"
_PATHS_OBJECT = _HOST / "softsgx-paths.so"
_ADDS_OBJECT = _HOST / "softsgx-adds.so"
_SHORT_OBJECT = _HOST / "softsgx-short.so"
_SERIES_OBJECT = _HOST / "softsgx-series.so"
_ACCEPTS_OBJECT = _HOST / "softsgx-accepts.so"
_EXECS_OBJECT = _HOST / "softsgx-execs.so"
_COPYIN_OBJECT = _HOST / "softsgx-copyin.so"
_START_OBJECT = _HOST / "softsgx-start.so"
# What vdso.lds and short.lds put behind the file.
_SLOTS_OFFSET = 0x2000
_HEAD_OFFSET = 0x6000
_FLAGS = [
    "-nostdlib",
    "-shared",
    "-Wa,--fatal-warnings",
    "-Wl,--fatal-warnings",
    "-Wl,--build-id=none",
    "-Wl,-z,max-page-size=4096",
    "-Wl,-z,noseparate-code",
    "-Wl,-z,text",  # a relocation is an error: nobody would apply it
]
_VDSO_FLAGS = ["-Wl,-soname,linux-vdso.so.1", "-Wl,--hash-style=both", "-Wl,--eh-frame-hdr"]
_SHORT_FLAGS = ["-Wl,--hash-style=sysv"]


class BuildError(Exception):
    """The vDSO could not be built; one line says why."""


def build_vdso(root: Path, output: Path | None = None) -> Path:
    """Compile the vDSO of the source tree `root` and return its path.

    `output` is where to write it, by default beside its source. CC names another
    compiler. Raises BuildError.
    """
    return _build_image(root, "vdso", _VDSO_FLAGS, output or root / _OBJECT, _SLOTS_OFFSET)


def build_short(root: Path, output: Path | None = None) -> Path:
    """The same for the code that enters and leaves without a stop (short.S)."""
    return _build_image(root, "short", _SHORT_FLAGS, output or root / _SHORT_OBJECT, _HEAD_OFFSET)


def _build_image(root: Path, name: str, flags: list[str], output: Path, limit: int) -> Path:
    """Compile NAME.S by NAME.lds to a file that is its own memory image, below ``limit`` bytes."""
    compiler = os.environ.get("CC", "gcc")
    script, source = root / _HOST / f"{name}.lds", root / _HOST / f"{name}.S"
    # Written aside and renamed: a running softsgx must not see half a file.
    partial = output.with_name(f"{output.name}.{os.getpid()}.o")
    options = [*_FLAGS, *flags, f"-Wl,-T,{script}"]
    command = [*compiler.split(), *options, str(source), "-o", str(partial)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"{compiler} could not build {name}.S: {done.stderr.strip()}")
        elf = partial.read_bytes()
        if len(elf) > limit:
            raise BuildError(f"{output.name} has {len(elf)} bytes, its slots begin at {limit}")
        if struct.unpack_from("<H", elf, 18) != (62,):
            raise BuildError(f"{compiler} does not build for x86-64; set CC to one that does")
        partial.chmod(0o644)
        partial.replace(output)
    except (FileNotFoundError, PermissionError):  # the latter of a folder that nobody may search
        raise BuildError(
            f"softsgx needs a C compiler to build its {name}.S, and there is no {compiler}: "
            "install gcc or set CC"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return output


def build_paths(root: Path) -> Path:
    """Compile the code that looks at paths in processes and return its path.

    Raises BuildError.
    """
    return _compile(root, _HOST / "paths.S", _PATHS_OBJECT, _FLAGS)


def build_adds(root: Path) -> Path:
    """The same for the code that adds pages there (adds.S).

    Raises BuildError.
    """
    return _compile(root, _HOST / "adds.S", _ADDS_OBJECT, _FLAGS)


def build_interleave(root: Path) -> Path:
    """Compile the loop that measuring uses where it is there and return its path.

    Raises BuildError.
    """
    flags = [*_USUAL, "-ffreestanding", "-nostdlib"]
    more = [_INTERLEAVE.with_name(name) for name in ("follow.c", "sha256.c")]
    return _compile(root, _INTERLEAVE, _INTERLEAVE_OBJECT, flags, *more)


def build_series(root: Path) -> Path:
    """Compile what answers calls that are alike where it is there and return its path.

    Raises BuildError.
    """
    return _compile(root, _HOST / "series.c", _SERIES_OBJECT, _USUAL, _HOST / "copyin.c")


def build_accepts(root: Path) -> Path:
    """The same for what answers leaves of enclaves that are alike.

    Raises BuildError.
    """
    return _compile(root, _HOST / "accepts.c", _ACCEPTS_OBJECT, _USUAL)


def build_execs(root: Path) -> Path:
    """The same for what prepares programs that were prepared before, and what else they stop for.

    Raises BuildError.
    """
    return _compile(root, _HOST / "execs.c", _EXECS_OBJECT, _USUAL, _HOST / "bystanders.c")


def build_copyin(root: Path) -> Path:
    """Compile what copies pages into enclaves where it is there and return its path.

    Raises BuildError.
    """
    return _compile(root, _HOST / "copyin.c", _COPYIN_OBJECT, _USUAL)


def build_start(root: Path) -> Path:
    """Compile how a run begins and return its path.

    Without libc, and what would be its thread's. Raises BuildError.
    """
    flags = [*_USUAL, "-ffreestanding", "-nostdlib", "-fno-stack-protector", "-Wl,-z,defs"]
    return _compile(root, _HOST / "start.c", _START_OBJECT, [*flags, str(root / _HOST / "front.c")])


def build_dcap_ql(root: Path) -> Path:
    """Compile the library for programs that link libsgx_dcap_ql and return its path.

    Raises BuildError.
    """
    flags = [*_USUAL, f"-Wl,-soname,{_DCAP_QL_OBJECT.name}", "-Wl,-z,defs", "-Wl,-z,now"]
    return _compile(root, _DCAP_QL, _DCAP_QL_OBJECT, flags)


def _compile(root: Path, source: Path, target: Path, flags: list[str], *more: Path) -> Path:
    output = root / target
    compiler = os.environ.get("CC", "gcc")
    partial = output.with_name(f"{output.name}.{os.getpid()}.o")
    sources = [str(root / path) for path in (source, *more)]
    command = [*compiler.split(), *flags, *sources, "-o", str(partial)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"{compiler} could not build {source.name}: {done.stderr.strip()}")
        partial.chmod(0o644)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return output


def _shared(root: Path, version: str) -> dict[str, str]:
    """The manual page and the completions of shells: made files, and where they are installed."""
    prefix = root / "build" / "prefix"
    code = "import runpy; runpy.run_module('softsgx.cli.manual', run_name='__main__')"
    command = [sys.executable, "-c", code, str(prefix), version]
    # A process of its own: what is built is not what the builder may have imported.
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(root / "src")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise BuildError(f"the manual page cannot be made: {done.stderr.strip()}")
    return {path: str(Path(path).relative_to(prefix)) for path in done.stdout.splitlines()}


class VdsoBuildHook(BuildHookInterface):
    """Hatchling's hook for the wheel target (an editable install is one, too)."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the objects, add them to the wheel, and make the wheel's tag say x86-64.

        pip compiles what it copies, but not an editable install. Without byte code, which
        some keep Python from writing, every start compiles the modules anew: twice the time.
        """
        if version == "editable":
            compileall.compile_dir(Path(self.root) / "src", quiet=1)
        try:
            build_vdso(Path(self.root))
            build_paths(Path(self.root))
            build_adds(Path(self.root))
            build_short(Path(self.root))
            build_interleave(Path(self.root))
            build_series(Path(self.root))
            build_accepts(Path(self.root))
            build_execs(Path(self.root))
            build_copyin(Path(self.root))
            build_start(Path(self.root))
            build_dcap_ql(Path(self.root))
            if version != "editable":
                build_data["shared_data"] |= _shared(Path(self.root), self.metadata.version)
        except BuildError as e:
            sys.exit(f"error: {e}")
        host = (
            _OBJECT,
            _PATHS_OBJECT,
            _ADDS_OBJECT,
            _SHORT_OBJECT,
            _SERIES_OBJECT,
            _ACCEPTS_OBJECT,
            _EXECS_OBJECT,
            _COPYIN_OBJECT,
            _START_OBJECT,
        )
        built = (*host, _INTERLEAVE_OBJECT, _DCAP_QL_OBJECT)
        build_data["artifacts"] += [f"/{path}" for path in built]
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"


if __name__ == "__main__":
    try:
        print(build_vdso(Path(__file__).resolve().parent))
        print(build_paths(Path(__file__).resolve().parent))
        print(build_adds(Path(__file__).resolve().parent))
        print(build_short(Path(__file__).resolve().parent))
        print(build_interleave(Path(__file__).resolve().parent))
        print(build_series(Path(__file__).resolve().parent))
        print(build_accepts(Path(__file__).resolve().parent))
        print(build_execs(Path(__file__).resolve().parent))
        print(build_copyin(Path(__file__).resolve().parent))
        print(build_start(Path(__file__).resolve().parent))
        print(build_dcap_ql(Path(__file__).resolve().parent))
    except BuildError as e:
        sys.exit(f"error: {e}")
