"""A crash inside is told in full; functions and lines are held against binutils' addr2line."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cache import ROOT, build
from tests.command import PATIENCE, Softsgx
from tests.orders import load

_CRASH = """\
static __attribute__((noipa)) void innermost(volatile char *p)
{
	*p = 1;
}

static __attribute__((noipa)) int middle(volatile char *p)
{
	innermost(p + 8);
	return 1;
}

void enclave_main"""
# ENCLU without the vDSO and without a handler: the AEP is the ENCLU itself.
_RAW = """\
	(void)find_enter_enclave;
	asm volatile("lea 1f(%%rip), %%rcx\\n1: .byte 0x0f, 0x01, 0xd7" : "=a"(ret) : "a"(2L),
		"b"(run.tcs), "D"(&hello) : "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory");
"""


def _enclave(folder: Path, *, raw: bool, flags: str) -> Path:
    """The example with an enclave that writes to its own code, three calls deep."""
    shutil.copytree(ROOT / "examples" / "hello", folder)
    source = (folder / "enclave.c").read_text()
    assert source.count("void enclave_main") == source.count("int at = 0;\n") == 1
    source = source.replace("void enclave_main", _CRASH)
    call = "int at = 0;\n\n\tat = middle((char *)enclave_main) - 1;\n"
    (folder / "enclave.c").write_text(source.replace("int at = 0;\n", call))
    if raw:
        loader = (folder / "loader.c").read_text()
        loader, found = re.subn(r"\tret = find_enter_enclave\(\)\(.*;\n", lambda _: _RAW, loader)
        assert found == 1
        (folder / "loader.c").write_text(loader)
    build(["make", "-s", "-C", folder, f"OUT={folder}/out", f"CC=gcc {flags}"])
    return folder / "out"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Entered by ENCLU, so that the signal of its exception ends the program; with CFI."""
    flags = "-g -fno-asynchronous-unwind-tables -fomit-frame-pointer"
    return _enclave(tmp_path_factory.mktemp("killed") / "e", raw=True, flags=flags)


@pytest.fixture(scope="module")
def returned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Entered through the vDSO, which gets the exception; with frame pointers, and without CFI."""
    flags = "-fno-omit-frame-pointer -fno-asynchronous-unwind-tables"
    return _enclave(tmp_path_factory.mktemp("returned") / "e", raw=False, flags=flags)


_FRAME = re.compile(r"^softsgx:   #(\d+) ELRANGE\+(0x[0-9a-f]+) (\S+)\+0x[0-9a-f]+(?: \((.*)\))?$")


def _frames(text: str) -> list[tuple[int, str, str]]:
    """(offset, function, line) of each frame, in order."""
    found = [match for line in text.splitlines() if (match := _FRAME.match(line))]
    assert [int(match[1]) for match in found] == list(range(len(found)))
    return [(int(match[2], 16), match[3], match[4] or "") for match in found]


def _addr2line(elf: Path, offset: int) -> tuple[str, str]:
    done = subprocess.run(
        ["addr2line", "-f", "-e", elf, hex(offset)], capture_output=True, text=True, check=True
    )
    function, place = done.stdout.splitlines()[:2]
    function = function.split(".")[0]
    return function, Path(place.split(" (")[0]).name


def test_a_crash_that_ends_the_program_is_told(killed: Path, softsgx: Softsgx) -> None:
    done = softsgx("--", killed / "hello", "you")
    assert done.returncode == -11
    head, why, page, *_ = done.stderr.splitlines()
    assert re.match(
        r"softsgx: crash in an enclave: #PF write 0x7 at ELRANGE\+0x4\w+ enclave_main", head
    )
    assert why == "softsgx:   why: the VMA does not allow it"
    assert page == "softsgx:   page: REG RX"
    frames = _frames(done.stderr)
    names = [name.split(".")[0] for _, name, _ in frames]
    assert names == ["innermost", "middle", "enclave_main", "enclave_entry"]
    elf = killed / "enclave.elf"
    for n, (offset, name, line) in enumerate(frames):
        assert (name.split(".")[0], line) == _addr2line(elf, offset - (n > 0))
        assert line.startswith(("enclave.c:", "entry.S:"))
    # Registers are the SSA's: RIP is where the store is, RDI its operand.
    registers = dict(re.findall(r"\b(r\w+)=(0x[0-9a-f]+)", done.stderr))
    fault = re.search(r"at ELRANGE\+(0x\w+)", head)
    assert fault is not None
    distance = int(registers["rdi"], 16) - int(registers["rip"], 16)
    assert distance == int(fault[1], 16) - frames[0][0]
    assert len(registers) == 18
    assert done.stderr.splitlines()[-1] == f"softsgx:   symbols: {elf}"


def test_a_crash_with_standard_error_closed_is_told_to_nobody(killed: Path) -> None:
    argv = shlex.join([sys.executable, "-m", "softsgx", "run", "--", str(killed / "hello"), "you"])
    closed = subprocess.run(
        ["sh", "-c", f"exec {argv} 2>&-"], check=False, timeout=PATIENCE, stdout=subprocess.PIPE
    )
    assert (closed.returncode, closed.stdout) == (-11, b"")


def test_the_rule_that_refused_stands_with_a_recording(
    softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    orders = [line.partition(" -> ")[0] for line in load("linux-5.11")]
    script = "\n".join([*orders, "0 mmap e p0 rw", "0 poke p0 5"]) + "\n"
    args = ("--design", "linux-5.11", "--symbols", "/bin/true", "--record", tmp_path / "r")
    said = softsgx(*args, "--", guest("orders"), stdin=script).stderr
    assert "softsgx: crash in an enclave: #PF write" in said
    assert re.search(
        r"^softsgx:   why: .* \(rule fault_absent of linux-5.11\)$", said, flags=re.M
    ), said
    assert "softsgx:   page: absent" in said


def test_an_exception_of_the_vdso_is_told_with_symbols_alone(
    returned: Path, softsgx: Softsgx, tmp_path: Path
) -> None:
    program = returned / "hello"
    assert "crash" not in softsgx("--", program, "you").stderr
    elf = returned / "enclave.elf"
    for symbols in (str(elf), f"{elf}@0", f"{elf}@0x0"):
        done = softsgx("--symbols", symbols, "--", program, "you")
        assert done.returncode == 1
        assert "hello: the enclave failed: vector 14" in done.stderr
        names = [name.split(".")[0] for _, name, _ in _frames(done.stderr)]
        assert names[:3] == ["innermost", "middle", "enclave_main"]
    # A file that has not this code: the place alone, and what to do.
    done = softsgx("--symbols", "/bin/true", "--", killed_without(returned, tmp_path), "you")
    assert "crash in an enclave: #PF write 0x7 at ELRANGE+0x4" in done.stderr
    offsets = re.findall(r"^softsgx:   #\d ELRANGE\+(0x4\w+)$", done.stderr, flags=re.M)
    assert [_addr2line(elf, int(at, 16) - (n > 0))[0] for n, at in enumerate(offsets)][:3] == [
        "innermost", "middle", "enclave_main"
    ]  # fmt: skip
    assert "no ELF file with this code was found: --symbols FILE or FILE@OFFSET" in done.stderr


def killed_without(out: Path, folder: Path) -> Path:
    """The program in a folder without its enclave's ELF file."""
    for name in ("hello", "enclave.bin", "enclave.sig"):
        shutil.copy(out / name, folder / name)
    return folder / "hello"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("missing", "--symbols missing: No such file or directory"),
        ("/etc/passwd", "--symbols /etc/passwd: not an ELF file"),
        ("/bin/true@x", "--symbols /bin/true@x: 'x' is no offset"),
    ],
)
def test_mistakes_are_one_line(value: str, message: str, softsgx: Softsgx) -> None:
    done = softsgx("--symbols", value, "--", "true")
    assert (done.returncode, done.stderr) == (2, f"softsgx: {message}\n")


def test_a_recording_has_what_is_told_and_so_have_show_and_the_page(
    killed: Path, softsgx: Softsgx, tmp_path: Path
) -> None:
    told = softsgx("--record", tmp_path / "r.jsonl", "--", killed / "hello", "you").stderr
    lines = [line.removeprefix("softsgx: ").strip() for line in told.splitlines()]
    shown = softsgx.command("show", tmp_path / "r.jsonl").stdout
    start = shown.index("crash in an enclave")
    assert [line.strip() for line in shown[start:].splitlines()[: len(lines)]] == lines
    page = tmp_path / "r.html"
    done = softsgx.command("report", tmp_path / "r.jsonl", "-o", page)
    assert done.returncode == 0, done.stderr
    row = next(line for line in page.read_text().split("<tr") if lines[0] in html.unescape(line))
    assert all(name in row for name in ("innermost", "middle", "the VMA does not allow it"))
    # Printed as an event, it is not said a second time.
    verbose = softsgx("-v", "--", killed / "hello", "you").stderr
    assert verbose.count("crash in an enclave") == 1
    assert "softsgx: crash" not in verbose
