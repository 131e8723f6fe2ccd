"""What exec makes again is prepared by compiled code; the oracle is Python, and no softsgx."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.host import execs, procmaps
from softsgx.uapi import syscalls as nr
from tests.cache import ROOT
from tests.command import PATIENCE

_PREPARED = f"call {nr.NR_exit}"  # what ends the calls of a program that Python prepares
_SHOW = r"""
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
int main(void)
{
	static char lines[65536], text[1 << 22];
	FILE *maps = fopen("/proc/self/maps", "r"), *mem = fopen("/proc/self/mem", "r");
	size_t n = fread(lines, 1, sizeof(lines) - 1, maps);

	lines[n] = 0;
	for (char *line = strtok(lines, "\n"); line; line = strtok(NULL, "\n")) {
		unsigned long start, end;
		char perms[8];

		sscanf(line, "%lx-%lx %7s", &start, &end, perms);
		if (strstr(line, "[stack]") || strstr(line, "[heap]") || strstr(line, "vsyscall"))
			continue;
		puts(line);
		if (perms[2] != 'x' || end - start > sizeof(text))
			continue;
		fseek(mem, (long)start, SEEK_SET);
		n = fread(text, 1, end - start, mem);
		for (size_t i = 0; i < n; i += 64) {
			unsigned long sum = 0;

			for (size_t k = i; k < i + 64; k++)
				sum = sum * 31 + (unsigned char)text[k];
			printf("%lx:%lx%c", start + i, sum, i % 512 == 448 ? '\n' : ' ');
		}
	}
	printf("vdso at %lx\n", getauxval(AT_SYSINFO_EHDR));
	return 0;
}
"""


def _queries() -> bool:
    """Whether the kernel has PROCMAP_QUERY."""
    with open("/proc/self/maps", "rb") as f:
        try:
            procmaps.query(f.fileno(), 0)
        except OSError:
            return False
    return True


pytestmark = [
    pytest.mark.skipif(not execs.available(), reason="execs.c is not built: hatch_build.py"),
    pytest.mark.skipif(not _queries(), reason="Linux 6.11: PROCMAP_QUERY"),
]


def _run(how: str, script: str, cache: Path, **more: str) -> tuple[bytes, dict[str, int]]:
    """What a shell script writes, and the counts of its stops."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.supervisor.execs", how, "sh", "-c", script],
        cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=PATIENCE,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)} | more,
    )  # fmt: skip
    out, _, counts = done.stdout.rpartition(b"{")
    return out.rstrip(b"\n"), json.loads(b"{" + counts)


@pytest.fixture(scope="module")
def shows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that prints its mappings, and sums of what is executable."""
    folder = tmp_path_factory.mktemp("shows")
    source, program = folder / "shows.c", folder / "shows"
    source.write_text(_SHOW)
    subprocess.run(["gcc", "-O1", source, "-o", program], check=True)
    return program


def test_a_program_finds_what_it_found_before(shows: Path, tmp_path: Path) -> None:
    if not shutil.which("setarch"):
        pytest.skip("no setarch")
    script = " ".join([f"setarch -R {shows}; echo next;"] * 6)
    caches = tmp_path / "anew", tmp_path / "again"
    for _ in range(2):  # the second has what the first has learned
        anew, counts = _run("--anew", script, caches[0])
        again, fewer = _run("--placed", script, caches[1])
        assert again == anew
        assert again.count(b"vdso at") == 6
    assert fewer[_PREPARED] < counts[_PREPARED] // 2


def test_a_program_starts_as_it_does_bare(tmp_path: Path) -> None:
    """Registers, flags, blocked signals and stack at an interpreter's first instruction."""
    interpreter, program = tmp_path / "interpreter", tmp_path / "program"
    source = ROOT / "tests" / "guests" / "lib" / "atentry.S"
    flags = ["-nostdlib", "-shared", "-fPIC", "-Wl,-e,_start"]
    subprocess.run(["gcc", *flags, source, "-o", interpreter], check=True)
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    linker = f"-Wl,--dynamic-linker={interpreter}"
    subprocess.run(["gcc", linker, tmp_path / "main.c", "-o", program], check=True)
    code = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {10, 5});"
        "os.kill(os.getpid(), 10); os.execv(sys.argv[1], sys.argv[1:])"
    )
    once = f"{sys.executable} -c '{code}' {program};"
    bare = subprocess.run(["sh", "-c", once], stdout=subprocess.PIPE, check=True).stdout
    ours, counts = _run("--placed", once * 12, tmp_path)
    assert ours == (bare * 12).rstrip(b"\n")
    assert counts[_PREPARED] < (1 + 2 * 12) / 2


def test_another_file_is_looked_at_anew(tmp_path: Path) -> None:
    program, other = tmp_path / "program", tmp_path / "other"
    same = f"{program}; {program}; {program};"
    replace = f"cp /bin/echo {other}.new; mv {other}.new {{}};"
    write = "cat /bin/echo > {};"
    for change in (replace, write):
        for _ in range(3):  # all is learned
            shutil.copy("/bin/true", program)
            _, before = _run("--placed", same + change.format(other) + same, tmp_path)
        told, after = _run("--placed", f"{same} {change.format(program)} {program} told;", tmp_path)
        assert told == b"told"
        assert after[_PREPARED] == before[_PREPARED] + 1


def test_where_our_memory_has_no_room_it_is_as_without(shows: Path, tmp_path: Path) -> None:
    """With a limit that the program alone just keeps to."""

    def ends(limit: int) -> bool:
        command = f"ulimit -v {limit}; exec {shows}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
        return done.returncode == 0

    low, high = 0, 1 << 20  # KiB
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if ends(middle) else (middle, high)
    script = (
        f"for i in 1 2 3; do {shows} > /dev/null; done; (ulimit -v {{}}; exec {shows}) | tail -1"
    )
    for more in (0, 16, 24, 64, 4096):
        anew, _ = _run("--anew", script.format(high + more), tmp_path)
        again, _ = _run("--placed", script.format(high + more), tmp_path)
        assert (b"vdso at" in again) == (b"vdso at" in anew)
        assert b"vdso at" in again or more < 64


def test_recipes_have_an_end() -> None:
    block = execs.Block()
    piece = execs.Piece(execs.REAL, 0, b"before")

    def recipe(name: int) -> execs.Recipe:
        maps = name.to_bytes(48, "little")
        return execs.Recipe(
            maps, 0, 0, [(0, "/a", (1,) * 5)], False, piece, b"after", 0, 1, [piece]
        )

    first, second = recipe(1), recipe(2)
    block.add(first)
    block.add(second)
    assert block.known == [second, first]
    same = recipe(1)
    block.add(same)
    assert block.known == [same, second]
    assert block["n_recipes"] == 2
    for name in range(3, 100):
        block.add(recipe(name))
    assert block["n_recipes"] == len(block.known) == 64
    assert block.known[0].maps == (99).to_bytes(48, "little")
    block.clear()
    assert block["n_recipes"] == 0


def test_pieces_of_our_memory_are_written_as_one() -> None:
    """Later ones over earlier ones, whose numbers go with what they are in."""
    number = (8, 4, 5, execs.PATHS, execs.NOTHING)
    pieces = [
        execs.Piece(execs.OURS, 8, b"a" * 16, numbers=[number, (0, 4, 6, 0, 0)]),
        execs.Piece(execs.MAPS, 1, b"b", b"c"),
        execs.Piece(execs.OURS, 30, b"d" * 2, numbers=[(1, 4, 7, 0, 0)]),
        execs.Piece(execs.OURS, 0, b"e" * 12),
    ]
    ours, mapped = execs.joined(pieces, (execs.OURS, execs.PATHS))
    assert mapped is pieces[1]
    assert (ours.base, ours.offset) == (execs.OURS, 0)
    assert ours.data == b"e" * 12 + b"a" * 12 + bytes(6) + b"d" * 2
    assert list(ours.numbers) == [(16, *number[1:]), (31, 4, 7, 0, 0)]
