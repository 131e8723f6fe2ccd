"""CPUID sites against objdump on real files, and against labels in hand-written assembly."""

from __future__ import annotations

import mmap
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.host import cpuidboundary, cpuidsites, unwatched
from tests.cache import ROOT

_LINE = re.compile(r"\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*(.*)")

CRAFTED = ROOT / "tests" / "data" / "cpuid" / "crafted.s"

LINKS = {
    "pie": ["-pie", "-Wl,--no-dynamic-linker"],
    "exec": ["-static", "-no-pie"],
    "shared": ["-shared"],
    "one_segment": ["-static", "-no-pie", "-Wl,-z,noseparate-code,-N"],
    "no_hdr": ["-static", "-no-pie", "-Wl,--no-eh-frame-hdr"],
}


def run(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def all_sites(path: Path | str, cache_dir: str | None = None) -> set[int]:
    return set(cpuidsites.sites(path, 0, os.path.getsize(path), cache_dir))


def file_offset(path: Path | str, vaddr: int) -> int:
    from elftools.elf.elffile import ELFFile

    with open(path, "rb") as file:
        (offset,) = ELFFile(file).address_offsets(vaddr)
    return int(offset)


def objdump_sites(path: str) -> tuple[set[int], set[int]]:
    """Return file offsets of CPUID by objdump: all, and those in what it cannot decode itself."""
    lines = run("objdump", "-d", "-w", path).splitlines()
    found, doubtful = set(), set()
    for number, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None or not re.search(r"\bcpuid\b", match[3]):
            continue
        offset = file_offset(path, int(match[1], 16) + len(bytes.fromhex(match[2])) - 2)
        found.add(offset)
        around = "\n".join(lines[max(0, number - 12) : number + 12])
        if re.search(r"\(bad\)|\b(ins|outs)[bl]\b|\bcli\b", around):
            doubtful.add(offset)
    return found, doubtful


def mapped_by_python() -> list[str]:
    """Return what a Python with OpenSSL maps executable: ld.so, libc, libcrypto and others."""
    out = run(
        sys.executable,
        "-c",
        "import _hashlib, _ctypes\n"
        "for line in open('/proc/self/maps'):\n"
        "    fields = line.split(None, 5)\n"
        "    if 'x' in fields[1] and len(fields) > 5 and fields[5][0] == '/':\n"
        "        print(fields[5], end='')",
    )
    return sorted({os.path.realpath(path) for path in [*out.splitlines(), "/bin/bash"]})


@pytest.mark.parametrize("path", mapped_by_python(), ids=os.path.basename)
def test_real_files_as_objdump(path: str) -> None:
    want, doubtful = objdump_sites(path)
    got = all_sites(path)
    assert got <= want
    # objdump decodes from symbols and so shows CPUIDs in tables that lie in .text.
    assert want - got <= doubtful


def test_some_real_file_has_sites_and_tables() -> None:
    paths = mapped_by_python()
    assert any("ld-linux" in path for path in paths)
    assert sum(len(all_sites(path)) for path in paths) > 20


@pytest.fixture(scope="module")
def static_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static")
    (folder / "p.c").write_text(
        "#include <cpuid.h>\n#include <stdio.h>\n#include <stdlib.h>\n"
        "int main(int argc, char **argv) {\n"
        "    unsigned a = 0, b = 0, c = 0, d = 0;\n"
        "    switch (argc) {\n"
        "    case 1: __cpuid(0, a, b, c, d); break;\n"
        "    case 2: __cpuid_count(7, 0, a, b, c, d); break;\n"
        "    case 3: __cpuid_count(0x12, 2, a, b, c, d); break;\n"
        "    case 4: puts(argv[1]); break;\n"
        "    case 5: if (!__get_cpuid(1, &a, &b, &c, &d)) abort(); break;\n"
        '    default: printf("%x", 0xa20f * argc); }\n'
        '    printf("%x %x %x %x\\n", a, b, c, d); return 0; }\n'
    )
    run("gcc", "-O2", "-static", "-o", folder / "p", folder / "p.c")
    return folder / "p"


@pytest.mark.parametrize("strip", [False, True])
def test_static_program_as_objdump(static_program: Path, tmp_path: Path, strip: bool) -> None:
    path = tmp_path / "p"
    path.write_bytes(static_program.read_bytes())
    if strip:
        run("strip", path)
    want, doubtful = objdump_sites(str(path))
    got = all_sites(path)
    assert got <= want
    assert want - got <= doubtful
    assert len(got) > 5


@pytest.mark.parametrize("strip", [False, True], ids=["symbols", "stripped"])
@pytest.mark.parametrize("link", LINKS)
def test_crafted(tmp_path: Path, link: str, strip: bool) -> None:
    path = tmp_path / "crafted"
    run("gcc", "-nostdlib", *LINKS[link], "-o", path, CRAFTED)
    labels = {}
    for line in run("nm", path).splitlines():
        value, _, name = line.split(None, 2) if line[0] != " " else ("0", "", "")
        labels[name] = int(value, 16)
    if strip:
        run("strip", path)
    got = all_sites(path)
    kinds = ("site_", "no_", "maybe_")
    names = {file_offset(path, labels[name]): name for name in labels if name.startswith(kinds)}
    wanted = {name for name in names.values() if name.startswith("site_")}
    assert len(wanted) == 11
    assert {names.get(offset) for offset in got} - {"maybe_arm"} == wanted


def test_range_holds_whole_sites_only(static_program: Path) -> None:
    every = sorted(all_sites(static_program))
    first, second = every[0], every[1]
    for start, length, want in [
        (first, 2, (first,)),
        (first + 1, 100, tuple(s for s in every if first < s <= first + 99)),
        (first, 1, ()),
        (first - 10, 11, ()),
        (first, second - first + 1, tuple(s for s in every if s < second)),
        (first, 0, ()),
    ]:
        assert cpuidsites.sites(static_program, start, length) == want


def test_descriptor_is_as_good_as_a_path_and_stays_open(static_program: Path) -> None:
    fd = os.open(static_program, os.O_RDONLY)
    try:
        os.lseek(fd, 5, os.SEEK_SET)
        got = cpuidsites.sites(fd, 0, 1 << 40)
        assert set(got) == all_sites(static_program)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x0f\xa2",
        b"#!/bin/sh\n\x0f\xa2",
        b"\x7fELF\x02\x01\x01" + b"\x0f\xa2" * 40,
        b"\x7fELF\x02\x01" + b"\xff" * 500,
    ],
)
def test_what_is_no_program_has_no_sites(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    assert cpuidsites.sites(tmp_path / "f", 0, 1 << 20) == ()


def test_damaged_files_never_raise(static_program: Path, tmp_path: Path) -> None:
    whole = static_program.read_bytes()
    path = tmp_path / "damaged"
    for size in (63, 64, 100, 120, 500, 4096, 5000, len(whole) // 2, len(whole) - 3000):
        path.write_bytes(whole[:size])
        assert all_sites(path) <= all_sites(static_program)
    for offset in range(16, 64, 2):
        path.write_bytes(whole[:offset] + b"\xff\x7f" + whole[offset + 2 :])
        assert all_sites(path) <= all_sites(static_program)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cpuidsites.sites(tmp_path / "none", 0, 1)


def test_cached_run_imports_no_decoder(static_program: Path, tmp_path: Path) -> None:
    want = sorted(all_sites(static_program, str(tmp_path / "deep" / "cache")))
    out = run(
        sys.executable,
        "-c",
        "import sys\nfrom softsgx.host import cpuidsites\n"
        f"print(list(cpuidsites.sites({str(static_program)!r}, 0, 1 << 40,"
        f" {str(tmp_path / 'deep' / 'cache')!r})))\n"
        "print({'capstone', 'mmap', 'softsgx.host.cpuidboundary'} & set(sys.modules))",
    )
    assert out == f"{want}\nset()\n"


def test_file_without_the_bytes_is_cached_too(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert all_sites("/bin/true", str(cache)) == set()
    (entry,) = cache.iterdir()
    assert entry.stat().st_mode & 0o777 == 0o600
    assert cache.stat().st_mode & 0o777 == 0o700


def test_damaged_cache_entries_are_ignored(static_program: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    want = all_sites(static_program, str(cache))
    (entry,) = cache.iterdir()
    good = entry.read_bytes()
    step = max(1, len(good) // 12)
    damaged = [good[:size] for size in range(0, len(good), step)]
    damaged += [
        good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(0, len(good), step)
    ]
    damaged += [good + b"\0" * 8, b"", b"x" * 1000]
    for raw in damaged:
        entry.write_bytes(raw)
        assert all_sites(static_program, str(cache)) == want
        assert entry.read_bytes() == good
        assert [each.name for each in cache.iterdir()] == [entry.name]


def test_entry_of_another_file_is_not_believed(static_program: Path, tmp_path: Path) -> None:
    cache, copy = tmp_path / "cache", tmp_path / "copy"
    all_sites("/bin/true", str(cache))
    (alien,) = cache.iterdir()
    raw = alien.read_bytes()
    copy.write_bytes(static_program.read_bytes())
    want = all_sites(copy, str(cache))
    (mine,) = set(cache.iterdir()) - {alien}
    mine.write_bytes(raw)
    assert all_sites(copy, str(cache)) == want


def test_file_edited_in_place_with_its_time_restored(static_program: Path, tmp_path: Path) -> None:
    cache, copy = str(tmp_path / "cache"), tmp_path / "copy"
    copy.write_bytes(static_program.read_bytes())
    times = copy.stat()
    before = all_sites(copy, cache)
    with open(copy, "r+b") as file:
        file.seek(min(before))
        file.write(b"\x90\x90")
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert all_sites(copy, cache) == before - {min(before)}


def test_unusable_cache_directory_costs_nothing_but_time(
    static_program: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    want = all_sites(static_program)
    assert all_sites(static_program, str(tmp_path / "file")) == want
    assert all_sites(static_program, "/proc/softsgx") == want


PREFIXED = ["", "66", "f3", "f2", "48", "4166", "66664f", "2e", "6567", "f366f248"]


@pytest.mark.parametrize("prefix", PREFIXED)
def test_lengths_of_prefixed_instructions(prefix: str) -> None:
    lead = bytes.fromhex(prefix)
    assert cpuidsites.cpuid_length(lead + b"\x0f\xa2\x90") == len(lead) + 2
    assert cpuidsites.trap_length(lead + b"\x0f\x0b\x90") == len(lead) + 2
    assert cpuidsites.trap_length(lead + b"\x0f\xa2") == 0
    assert cpuidsites.trap_length(lead + b"\x0f") == 0


def test_lock_and_overlong_are_no_cpuid() -> None:
    assert cpuidsites.cpuid_length(b"\xf0\x0f\xa2") == 0
    assert cpuidsites.cpuid_length(b"\x66" * 14 + b"\x0f\xa2") == 0


def test_patched_forms_trap_at_their_first_byte(tmp_path: Path) -> None:
    """The processor itself: SIGILL with RIP at the first prefix, for all prefixes at once."""
    forms = [bytes.fromhex(prefix) + b"\x0f\x0b" for prefix in PREFIXED]
    body = "".join(
        f"{{ 0x{', 0x'.join(f'{byte:02x}' for byte in form)}, 0xc3 }}, " for form in forms
    )
    (tmp_path / "t.c").write_text(
        "#define _GNU_SOURCE\n#include <setjmp.h>\n#include <signal.h>\n#include <stdio.h>\n"
        "#include <string.h>\n#include <sys/mman.h>\n#include <ucontext.h>\n"
        f"static const unsigned char form[][16] = {{ {body} }};\n"
        "static sigjmp_buf back; static volatile long long rip;\n"
        "static void ill(int s, siginfo_t *i, void *c) {\n"
        "    rip = ((ucontext_t *)c)->uc_mcontext.gregs[REG_RIP]; siglongjmp(back, 1); }\n"
        "int main(void) {\n"
        "    struct sigaction a = { .sa_sigaction = ill, .sa_flags = SA_SIGINFO };\n"
        "    sigaction(SIGILL, &a, 0);\n"
        "    char *p = mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);\n"
        "    for (unsigned n = 0; n < sizeof form / 16; n++) {\n"
        "        memcpy(p, form[n], 16); rip = 0;\n"
        "        if (!sigsetjmp(back, 1)) ((void (*)(void))p)();\n"
        '        printf("%lld ", rip - (long long)p); } return 0; }\n'
    )
    run("gcc", "-o", tmp_path / "t", tmp_path / "t.c")
    assert run(tmp_path / "t").split() == ["0"] * len(forms)


def test_bytes_follow_the_flow_from_the_entries() -> None:
    # 0: xor eax,eax; 2: cpuid; 4: jz 8; 6: ret; 7: data; 8: f3 cpuid; 11: jmp *rax; 13: data
    code = bytes.fromhex("31c0 0fa2 7402 c3 e8 f30fa2 ffe0 0fa2c3")
    assert cpuidsites.sites_in_bytes(code, (0,)) == (2, 9)
    assert cpuidsites.sites_in_bytes(code, (13,)) == (13,)
    assert cpuidsites.sites_in_bytes(code, ()) == ()
    assert cpuidsites.sites_in_bytes(b"\xb8\x0f\xa2\0\0\xc3", (0,)) == ()
    # the same bytes reached as an instruction and as an operand: left alone
    assert cpuidsites.sites_in_bytes(bytes.fromhex("7401 b8 0fa2 0000 c3"), (0,)) == ()
    # a jump to the second byte
    assert cpuidsites.sites_in_bytes(bytes.fromhex("7401 0fa2 c3 90 90 90 90 90 90 90"), (0,)) == ()
    assert cpuidsites.sites_in_bytes(code, (-1, 100)) == ()
    assert cpuidboundary.reached_sites(b"", (0,)) == ()


def test_file_that_becomes_shorter_is_read_as_zeros(static_program: Path, tmp_path: Path) -> None:
    short, before = tmp_path / "f", static_program.read_bytes()
    short.write_bytes(before)
    with open(short, "r+b") as file:
        theirs = mmap.mmap(file.fileno(), len(before), prot=mmap.PROT_READ)
        file.truncate(1 << 13)
        with pytest.raises(ValueError, match="mmap length"):
            cpuidsites.search(file.fileno(), (0, 0, len(before)), None)
        assert bytes(unwatched.copied(theirs)[: 1 << 14]) == before[: 1 << 13] + bytes(1 << 13)


def test_a_file_whose_headers_lie_has_no_sites_and_no_error(tmp_path: Path) -> None:
    """A program maps what it likes, and the tracer looks at it."""
    source, whole, odd = (tmp_path / name for name in ("cpuid.c", "whole.so", "odd.so"))
    source.write_text('void f(void) { __asm__ volatile("mov $7, %eax; cpuid; ret"); }\n')
    run("gcc", "-O1", "-shared", "-fPIC", "-nostdlib", source, "-o", whole)
    data = whole.read_bytes()
    (headers,), (count,) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<H", data, 56)
    assert all_sites(whole)
    for where in range(headers, headers + 56 * count, 8):
        for value in (0, 1 << 32, 1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, len(data) - 2):
            lies = bytearray(data)
            struct.pack_into("<Q", lies, where, value)
            odd.write_bytes(lies)
            assert all_sites(odd) <= all_sites(whole)
