"""The synthetic vDSO as an ELF object, and the parser of vDSOs, against others' tools."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from softsgx.errors import UnsupportedError
from softsgx.host import vdso
from tests.cache import ROOT, build

_PAGE = 4096
_UNFILLED = (".slots", ".answers", ".scratch")
_NAMES = ("clock_gettime", "gettimeofday", "time", "clock_getres", "getcpu", "getrandom")


@pytest.fixture(scope="module")
def image() -> vdso.Image:
    return vdso.load_image()


@pytest.fixture(scope="module")
def real() -> bytes:
    """This process's own vDSO."""
    with open("/proc/self/maps", encoding="ascii") as maps:
        line = next(line for line in maps if line.rstrip().endswith("[vdso]"))
    start, end = (int(word, 16) for word in line.split()[0].split("-"))
    with open("/proc/self/mem", "rb") as memory:
        memory.seek(start)
        return memory.read(end - start)


def _elf(data: bytes) -> ELFFile:
    return ELFFile(io.BytesIO(data))


def _section(data: bytes, name: str) -> Any:
    section = _elf(data).get_section_by_name(name)
    assert section is not None
    return section


def _dynamic_symbols(data: bytes) -> dict[str, int]:
    return {
        symbol.name: symbol.entry.st_value
        for symbol in _section(data, ".dynsym").iter_symbols()
        if symbol.entry.st_shndx not in {"SHN_UNDEF", "SHN_ABS"}
    }


def _hatch_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_is_built_from_the_source_as_it_is(image: vdso.Image, tmp_path: Path) -> None:
    fresh = _hatch_build().build_vdso(ROOT, tmp_path / "vdso.so")
    assert fresh.read_bytes() == image.contents, "stale: run 'python hatch_build.py'"


def test_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, image: vdso.Image
) -> None:
    hook = _hatch_build()
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(hook.BuildError, match=r"no no-such-compiler: install gcc"):
        hook.build_vdso(ROOT, tmp_path / "vdso.so")
    assert not list(tmp_path.glob("*.so*"))
    monkeypatch.setattr(vdso, "_image", None)
    monkeypatch.setattr(vdso, "PATH", str(tmp_path / "absent.so"))
    with pytest.raises(UnsupportedError, match=r"absent\.so is not built: run"):
        vdso.load_image()
    stripped = tmp_path / "stripped.so"
    stripped.write_bytes(image.contents)
    build(["strip", stripped])
    with pytest.raises(UnsupportedError, match="lacks the symbol 'softsgx_enclu'"):
        vdso.Image(stripped.read_bytes())


def test_exports_what_the_kernel_does(image: vdso.Image) -> None:
    # linux/arch/x86/entry/vdso/vdso.lds.S (and getrandom of 6.11): names, bindings, version.
    expected = {
        "__vdso_sgx_enter_enclave": "STB_GLOBAL",
        "LINUX_2.6": "STB_GLOBAL",
        "": "STB_LOCAL",
    }
    for name in _NAMES:
        expected |= {f"__vdso_{name}": "STB_GLOBAL", name: "STB_WEAK"}
    dynsym = _section(image.contents, ".dynsym")
    assert {s.name: s.entry.st_info.bind for s in dynsym.iter_symbols()} == expected
    versions = _section(image.contents, ".gnu.version")
    indexes = {
        dynsym.get_symbol(i).name: v.entry.ndx for i, v in enumerate(versions.iter_symbols())
    }
    assert {v for name, v in indexes.items() if name} == {2}
    definitions = _section(image.contents, ".gnu.version_d")
    assert [next(aux).name for _, aux in definitions.iter_versions()] == [
        "linux-vdso.so.1",
        "LINUX_2.6",
    ]
    tags = {tag.entry.d_tag: tag for tag in _section(image.contents, ".dynamic").iter_tags()}
    assert tags["DT_SONAME"].soname == "linux-vdso.so.1"
    assert {"DT_HASH", "DT_GNU_HASH"} <= tags.keys()
    assert not {"DT_NEEDED", "DT_RELA", "DT_REL", "DT_JMPREL", "DT_TEXTREL"} & tags.keys()


def test_the_file_is_the_memory_image(image: vdso.Image) -> None:
    elf = _elf(image.contents)
    loads = [s.header for s in elf.iter_segments("PT_LOAD")]
    assert len(loads) == 1  # glibc's setup_vdso needs it
    assert (loads[0].p_offset, loads[0].p_vaddr, loads[0].p_flags) == (0, 0, 5)
    assert loads[0].p_filesz == loads[0].p_memsz
    for section in elf.iter_sections():
        if section.header.sh_flags & 2 and section.name not in _UNFILLED:  # SHF_ALLOC
            assert section.header.sh_offset == section.header.sh_addr
    end = elf.header.e_shoff + elf.header.e_shnum * elf.header.e_shentsize
    assert end <= len(image.contents) <= image.data_offset
    assert image.data_offset % _PAGE == 0
    assert image.size == image.data_offset + _PAGE == 3 * _PAGE


def test_readelf_has_no_complaint(tmp_path: Path, image: vdso.Image) -> None:
    file = tmp_path / "vdso.so"
    file.write_bytes(image.contents)
    done = subprocess.run(
        ["readelf", "--all", "--wide", "--debug-dump=frames", file],
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    assert done.stderr == ""
    assert "There are no relocations in this file." in done.stdout


def test_offsets_are_those_of_the_instructions(image: vdso.Image) -> None:
    code = image.contents
    # shl $32, %rax; or $60, %rax; syscall: only "exit" can be called from there.
    assert code[image.enclu : image.aep] == bytes.fromhex("48c1e020 4883c83c 0f05")
    assert code[image.aep : image.enclu_end] == bytes.fromhex("0f01d7")
    assert code[image.undefined :].startswith(b"\x0f\x0b")
    # In a loop over rows of 64 bytes; mov %rax, %r12; cmp 56(%rbx), %rax.
    assert code[image.batch :].startswith(bytes.fromhex("488b03 488b7b08"))
    assert code[image.syscall :].startswith(bytes.fromhex("0f05 4989c4 483b4338"))
    assert code[image.cpuid :].startswith(b"\x0f\xa2\xcc")
    assert code[image.xgetbv :].startswith(b"\x0f\x01\xd0\xcc")
    symtab = _section(code, ".symtab")
    for attribute in (
        "enclu",
        "aep",
        "enclu_end",
        "enclu_fault",
        "syscall",
        "cpuid",
        "xgetbv",
        "undefined",
    ):
        (symbol,) = symtab.get_symbol_by_name(f"softsgx_{attribute}")
        assert symbol.entry.st_value == getattr(image, attribute)
    assert _dynamic_symbols(code)["__vdso_sgx_enter_enclave"] == image.enter
    assert set(image.slot_offsets) == set(_NAMES)


def test_call_frames_cover_all_code(image: vdso.Image) -> None:
    elf = _elf(image.contents)
    covered = [
        (entry.header.initial_location, entry.header.address_range)
        for entry in elf.get_dwarf_info().EH_CFI_entries()
        if isinstance(entry, FDE)
    ]
    text = _section(image.contents, ".text").header
    padding = set(range(text.sh_addr, text.sh_addr + text.sh_size))
    for start, length in covered:
        padding -= set(range(start, start + length))
    # The assembler fills between functions with no-ops, the linker with int3; a name is the last.
    assert len(padding) < 16 * (len(covered) + 1)
    assert any(start <= image.enclu < start + length for start, length in covered)


def test_struct_sgx_enclave_run_is_the_headers(tmp_path: Path) -> None:
    # The offsets in vdso.S, against the C compiler's view of <asm/sgx.h>.
    defines = [
        line.split()[1:3]
        for line in (ROOT / "src/softsgx/host/vdso.S").read_text().splitlines()
        if line.startswith("#define RUN_")
    ]
    fields = {
        "RUN_TCS": "tcs",
        "RUN_FUNCTION": "function",
        "RUN_EXCEPTION_VECTOR": "exception_vector",
        "RUN_EXCEPTION_ERROR": "exception_error_code",
        "RUN_EXCEPTION_ADDR": "exception_addr",
        "RUN_USER_HANDLER": "user_handler",
        "RUN_RESERVED": "reserved",
    }
    assert {name for name, _ in defines} == fields.keys() | {"RUN_SIZE"}
    source = "#include <stddef.h>\n#include <asm/sgx.h>\n"
    for name, value in defines:
        run = "struct sgx_enclave_run"
        seen = f"offsetof({run}, {fields[name]})" if name in fields else f"sizeof({run})"
        source += f'_Static_assert({seen} == {value}, "{name}");\n'
    (tmp_path / "parity.c").write_text(source)
    build(["gcc", "-fsyntax-only", tmp_path / "parity.c"])


# ---- the parser -------------------------------------------------------------------


def test_parses_this_kernels_vdso(real: bytes) -> None:
    assert vdso.parse_symbols(real) == _dynamic_symbols(real)
    assert "__vdso_clock_gettime" in vdso.parse_symbols(real)


def _linked(tmp_path: Path, *flags: str) -> bytes:
    (tmp_path / "x.c").write_text(
        "int __vdso_time(void) { return 1; } int other(void) { return 2; }"
        "int missing(void); int __vdso_getcpu(void) { return missing(); }"
    )
    output = tmp_path / "x.so"
    relaxed = ["-shared", "-nostdlib", "-fPIC", "-Wl,-z,noseparate-code"]
    build(["gcc", *relaxed, *flags, tmp_path / "x.c", "-o", output])
    build(["strip", output])
    return output.read_bytes()


@pytest.mark.parametrize("style", ["sysv", "gnu", "both"])
@pytest.mark.parametrize("sections", [True, False])
def test_parses_either_hash_table(tmp_path: Path, style: str, sections: bool) -> None:
    data = _linked(tmp_path, f"-Wl,--hash-style={style}")
    expected = _dynamic_symbols(data)
    assert {"__vdso_time", "other", "__vdso_getcpu"} <= expected.keys()
    if not sections:  # e_shoff, e_shnum and e_shstrndx
        data = data[:40] + bytes(8) + data[48:60] + bytes(4) + data[64:]
    found = vdso.parse_symbols(data)
    assert {name: found[name] for name in expected} == expected
    assert "missing" not in found


def test_parses_section_headers_alone(tmp_path: Path) -> None:
    data = bytearray(_linked(tmp_path))
    elf = _elf(bytes(data))
    (dynamic,) = elf.iter_segments("PT_DYNAMIC")
    expected = _dynamic_symbols(bytes(data))
    at = dynamic.header.p_offset
    data[at : at + dynamic.header.p_filesz] = bytes(dynamic.header.p_filesz)
    assert vdso.parse_symbols(bytes(data)) == expected


def test_parses_a_prelinked_vdso(tmp_path: Path) -> None:
    # Kernels before 3.15 link their vDSO at 0xffffffffff700000.
    base = 0xFFFFFFFFFF700000
    data = _linked(tmp_path, f"-Wl,-Ttext-segment={base:#x}")
    expected = {name: value - base for name, value in _dynamic_symbols(data).items()}
    assert 0 < expected["__vdso_time"] < len(data)
    assert vdso.parse_symbols(data) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an ELF object"),
        (b"\x7fELF\x01\x01\x01" + bytes(200), "not an ELF object of 64 bits"),
        (b"\x7fELF\x02\x01\x01" + bytes(200), "not an x86-64 object"),
        (b"\x7fELF\x02\x01\x01", "damaged"),
    ],
)
def test_refuses_what_is_no_vdso(data: bytes, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        vdso.parse_symbols(data)


@given(st.data())
def test_damage_is_an_unsupported_error(data: st.DataObject) -> None:
    contents = bytearray(vdso.load_image().contents)
    interesting = st.integers(0, 0x640) | st.integers(0, len(contents) - 8)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(interesting)
        value = data.draw(st.sampled_from([0, 1, 0xFFFF, 1 << 31, (1 << 63) - 1, (1 << 64) - 1]))
        struct.pack_into("<Q", contents, at, value)
    cut = data.draw(st.integers(0, len(contents)) | st.just(len(contents)))
    with contextlib.suppress(UnsupportedError):
        vdso.parse_symbols(bytes(contents[:cut]))
    vdso.slots(bytes(contents[:cut]), 1 << 46, 1 << 45)  # never raises


@pytest.mark.parametrize("vaddr", [1 << 62, (1 << 63) - 1, (1 << 64) - 1])
def test_a_function_that_lies_before_the_vdso_is_served_by_ours(vaddr: int) -> None:
    contents = bytearray(vdso.load_image().contents)
    struct.pack_into("<Q", contents, 0x40 + 16, vaddr)  # the first program header's p_vaddr
    struct.pack_into("<I", contents, 0x40 + 56, 0)  # no PT_DYNAMIC: the sections' symbols
    assert vdso.slots(bytes(contents), 1 << 46, 1 << 45) == vdso.slots(b"", 1 << 46, 1 << 45)


def test_slots_are_real_addresses_or_our_own(image: vdso.Image, tmp_path: Path) -> None:
    other = _linked(tmp_path)  # has time and getcpu only
    expected = _dynamic_symbols(other)
    raw = vdso.slots(other, 0x7000_0000_0000, 0x6000_0000_0000)
    for name, at in image.slot_offsets.items():
        (address,) = struct.unpack_from("<Q", raw, at - image.data_offset)
        if name in {"time", "getcpu"}:
            assert address == 0x7000_0000_0000 + expected[f"__vdso_{name}"]
        else:
            offset = address - 0x6000_0000_0000
            assert image.contents[offset : offset + 16].find(b"\x0f\x05\xc3") > 0
    assert len(raw) <= _PAGE


def test_finds_a_syscall_instruction(real: bytes) -> None:
    at = vdso.find_syscall_insn(real)
    assert at is not None
    assert real[at : at + 2] == b"\x0f\x05"
    assert vdso.find_syscall_insn(b"\x0f\xcc\x05") is None


def test_imports_only_what_start_up_may_cost() -> None:
    script = "import sys; import softsgx.host.vdso; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "src")},
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"elftools", "ctypes", "pathlib", "re", "subprocess", "dataclasses", "enum"}
