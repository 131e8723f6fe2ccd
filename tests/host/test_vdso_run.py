"""The synthetic vDSO in processes: entering, forwarding, and as a libc's vDSO."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from softsgx.host import vdso
from tests.cache import ROOT, build

_SOURCES = ROOT / "tests" / "host" / "vdso"
_BASE = 0x6000_0000_0000
_IMAGE = str(ROOT / "src" / "softsgx" / "host" / "softsgx-vdso.so")
_SIGSEGV = 128 + 11
_SlotsOf = Callable[[bytes, int, int], bytes]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``compiled(source, *flags, compiler=…)``: the program, built once by each worker."""
    built: dict[tuple[str, ...], Path] = {}

    def compile_(source: str, *flags: str, compiler: str = "gcc") -> Path:
        key = (compiler, source, *flags)
        if key not in built:
            output = tmp_path_factory.mktemp("vdso") / source
            options = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Wno-unused-function"]
            options += ["-fasynchronous-unwind-tables", *flags]
            build([compiler, *options, _SOURCES / f"{source}.c", "-o", output])
            built[key] = output
        return built[key]

    return compile_


@pytest.mark.parametrize(
    "case",
    [
        "eexit",
        "blocked_signals",
        "aep",
        "stack_left_deep",
        "bad_function",
        "reserved",
        "fault",
        "handler",
        "handler_at_fault",
        "reenter",
        "reenter_refused",
        "longjmp",
        "unwind",
    ],
)
def test_enter_enclave(compiled: Callable[..., Path], case: str) -> None:
    image = vdso.load_image()
    with open(_IMAGE, "rb") as file:
        section = ELFFile(file).get_section_by_name(".eh_frame")
        assert section is not None
        eh_frame = section.header.sh_addr
    numbers = (image.size, image.enclu, image.aep, image.enclu_fault, eh_frame)
    done = subprocess.run(
        [compiled("enter"), case, _IMAGE, *map(str, numbers)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def _read(process: subprocess.Popen[bytes], length: int) -> bytes:
    assert process.stdout is not None
    data = process.stdout.read(length)
    assert len(data) == length, f"{process.args!r} went away, see its standard error"
    return data


def _forward(program: Path, slots_of: _SlotsOf, has_state: bool) -> int:
    image = vdso.load_image()
    numbers = map(str, (image.size, image.data_offset, int(has_state)))
    command = [str(program), _IMAGE, *numbers]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        real_base, length, image_base = struct.unpack("<3Q", _read(process, 24))
        slots = slots_of(_read(process, length), real_base, image_base)
        process.communicate(struct.pack("<Q", len(slots)) + slots)
    return process.returncode


def test_forwards_to_the_real_vdso(compiled: Callable[..., Path]) -> None:
    real_names: set[str] = set()

    def slots_of(real: bytes, real_base: int, image_base: int) -> bytes:
        real_names.update(vdso.parse_symbols(real))
        slots = vdso.slots(real, real_base, image_base)
        words = struct.unpack(f"<{len(slots) // 8}Q", slots)
        inside = sum(real_base <= word < real_base + len(real) for word in words)
        names = vdso.load_image().slot_offsets
        assert inside == sum(f"__vdso_{name}" in real_names for name in names) >= 4
        return slots

    # The kernel has the state since 6.11; 'real_names' is only known in the middle.
    with open("/proc/self/maps", encoding="ascii") as maps:
        start, end = next(
            (int(word, 16) for word in line.split()[0].split("-"))
            for line in maps
            if line.rstrip().endswith("[vdso]")
        )
    with open("/proc/self/mem", "rb") as memory:
        memory.seek(start)
        mine = vdso.parse_symbols(memory.read(end - start))
    assert _forward(compiled("forward"), slots_of, "__vdso_getrandom" in mine) == 0
    assert real_names == set(mine)


def test_falls_back_to_system_calls(compiled: Callable[..., Path]) -> None:
    def none(real: bytes, real_base: int, image_base: int) -> bytes:
        slots = vdso.slots(b"", 0, image_base)
        assert slots == vdso.slots(real[:100], real_base, image_base)  # nothing readable
        return slots

    assert _forward(compiled("forward"), none, has_state=False) == 0


def _poisoned(real: bytes, real_base: int, image_base: int) -> bytes:
    """Slots with a clock_gettime that cannot be called."""
    image = vdso.load_image()
    slots = bytearray(vdso.slots(real, real_base, image_base))
    struct.pack_into("<Q", slots, image.slot_offsets["clock_gettime"] - image.data_offset, 1)
    return bytes(slots)


def _exec(tracer: Path, program: Path, slots_of: _SlotsOf = vdso.slots) -> int:
    image = vdso.load_image()
    numbers = (image.size, image.data_offset, _BASE, image.syscall, image.cpuid, image.xgetbv)
    command = [str(tracer), _IMAGE, *map(str, numbers), str(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        real_base, length = struct.unpack("<2Q", _read(process, 16))
        real = _read(process, length)
        first = vdso.find_syscall_insn(real)
        assert first is not None
        slots = slots_of(real, real_base, _BASE)
        process.communicate(struct.pack("<2Q", first, len(slots)) + slots)
    return process.returncode


@pytest.fixture(params=["dynamic", "static", "pie", "musl", "musl_static"])
def guest(request: pytest.FixtureRequest, compiled: Callable[..., Path]) -> Path:
    """A program that uses its vDSO, one for each way a libc finds it."""
    kind = request.param
    if kind.startswith("musl") and not shutil.which("musl-gcc"):
        pytest.skip("no musl-gcc here; to run it: apt-get install musl-tools")
    flags = {
        "dynamic": ["-DDYNAMIC_GLIBC", "-no-pie"],
        "pie": ["-DDYNAMIC_GLIBC", "-pie", "-fPIE"],
        "musl": [],
    }.get(kind, ["-static"])
    compiler = "musl-gcc" if kind.startswith("musl") else "gcc"
    return compiled("guest", *flags, compiler=compiler)


def test_a_libc_takes_the_image_for_its_vdso(compiled: Callable[..., Path], guest: Path) -> None:
    assert _exec(compiled("exec_with_image"), guest) == 0


def test_a_libc_calls_through_the_image(compiled: Callable[..., Path], guest: Path) -> None:
    # Not by the system call, and not by the kernel's vDSO: the broken slot kills it.
    assert _exec(compiled("exec_with_image"), guest, _poisoned) == _SIGSEGV
