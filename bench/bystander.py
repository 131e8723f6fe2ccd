"""What a program pays that uses no SGX: it maps a lot, or opens and asks for files a lot.

softsgx looks at every open, stat and access of a path (that is how the device appears), in the
process itself where an instruction makes many, and at shared or executable mappings of files.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import sysconfig
from pathlib import Path

from bench.common import (
    BUILD,
    ROOT,
    Row,
    best,
    environment,
    figures,
    guest,
    in_turn,
    program,
    softsgx,
    wall_ms,
)  # fmt: skip

__all__ = ["rows"]

_LIKE_BARE, _PROGRAM, _EXEC = 1.1, 1.05, 1.5
_IMPORTS = "import asyncio, email, http.client, json, sqlite3, unittest, xml.dom.minidom"
_SOURCES = 50
_ROUNDS = 4000  # some 100 ms: a short run is left alone by other work more often


def rows(rounds: int) -> list[Row]:
    """Each kind of call, bare and under softsgx."""
    maps, files = guest("bench_mmap"), program("files")
    maps_sgx, maps_bare, files_sgx, files_bare = in_turn(
        rounds * 3,
        lambda: figures(softsgx(maps, str(_ROUNDS))),
        lambda: figures([str(maps), str(_ROUNDS)]),
        lambda: figures(softsgx(files, str(_ROUNDS // 2))),
        lambda: figures([str(files), str(_ROUNDS // 2)]),
    )
    found = []
    for key, name in (
        ("anon_ns", "mmap, touch, mprotect, munmap, anonymous"),
        ("file_ns", "the same of a private file mapping"),
        ("getppid_ns", "a system call that does nothing"),
    ):
        ours, bare = maps_sgx[key] / 1e3, maps_bare[key] / 1e3
        target = "within 5 %" if key != "getppid_ns" else ""
        met = ours < bare * 1.05 if target else None
        found.append(Row(name, "us", ours, bare, "bare", target=target, met=met))
    for key, name, limit in (
        ("open_ns", "open and close of a file", _LIKE_BARE),
        ("stat_ns", "stat of a file", _LIKE_BARE),
        ("read_ns", "read of 4 KiB", _LIKE_BARE),
        ("exec_ns", "fork, exec, wait", _EXEC),
    ):
        ours, bare = files_sgx[key] / 1e3, files_bare[key] / 1e3
        met = ours <= bare * limit
        found.append(Row(name, "us", ours, bare, "bare", target=f"{limit} of bare", met=met))
    return [*found, *_server(rounds), *_programs(rounds)]


def _server(rounds: int) -> list[Row]:
    """Requests on a connection to a server that opens a file for each."""
    server, requests = str(program("server")), 10 * _ROUNDS
    ours, bare, start, start_bare = in_turn(
        rounds,
        lambda: figures(softsgx(server, str(requests))),
        lambda: figures([server, str(requests)]),
        lambda: figures(softsgx(server, "1")),
        lambda: figures([server, "1"]),
    )
    wall = [of["ns_per_request"] / 1e3 for of in (ours, bare)]
    cpu = [(of["cpu_us"] - s["cpu_us"]) / requests for of, s in ((ours, start), (bare, start_bare))]
    target = f"{_PROGRAM} of bare"
    return [
        Row(name, "us", us, than, "bare", target=target, met=us <= than * _PROGRAM)
        for name, (us, than) in (
            ("a request of a server of files", wall), ("  its CPU time", cpu),
        )
    ]  # fmt: skip


def _cpu_ms(command: list[str]) -> float:
    """The CPU time of a program and of all that it starts, in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, env=environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _sources() -> str:
    """A folder with a Makefile of C files that take a moment each."""
    folder = BUILD / "sources"
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"file{n}" for n in range(_SOURCES)]
    for n, name in enumerate(names):
        text = f'#include <stdio.h>\nint {name}(void) {{ return printf("%d", {n}); }}\n'
        (folder / f"{name}.c").write_text(text)
    objects = " ".join(f"{name}.o" for name in names)
    (folder / "Makefile").write_text(f"all: {objects}\n%.o: %.c\n\t$(CC) -O1 -c $< -o $@\n")
    return str(folder)


def _programs(rounds: int) -> list[Row]:
    """Programs as they are, each without what the start of /bin/true takes in the same way."""
    where = sysconfig.get_paths()["stdlib"]
    texts = sorted(str(path) for path in Path(where).glob("*.py"))
    found = []
    for name, command in (
        ("find in Python's library", ["find", where, "-name", "x"]),
        ("ls -lR of it", ["ls", "-lR", where]),
        ("grep in its files", ["grep", "-c", "no such text", *texts]),
        ("git status of softsgx", ["git", "-C", str(ROOT), "status", "--short"]),
        ("200 times /bin/true from a shell",
         ["sh", "-c", "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done"]),
        ("Python's imports", [sys.executable, "-c", _IMPORTS]),
        (f"a build of {_SOURCES} C files", ["make", "-sB", "-C", _sources()]),
    ):  # fmt: skip
        empty_sgx, empty, ours, bare = best(
            rounds,
            lambda: wall_ms(softsgx("/bin/true")),
            lambda: wall_ms(["/bin/true"]),
            lambda c=command: wall_ms(softsgx(*c), check=False),  # type: ignore[misc]
            lambda c=command: wall_ms(c, check=False),  # type: ignore[misc]
        )
        ours, bare = ours - empty_sgx, bare - empty
        limit = _EXEC if "true" in name else _PROGRAM
        met = ours <= bare * limit
        found.append(Row(name, "ms", ours, bare, "bare", target=f"{limit} of bare", met=met))
        empty_sgx, empty, ours, bare = best(
            rounds,
            lambda: _cpu_ms(softsgx("/bin/true")),
            lambda: _cpu_ms(["/bin/true"]),
            lambda c=command: _cpu_ms(softsgx(*c)),  # type: ignore[misc]
            lambda c=command: _cpu_ms(c),  # type: ignore[misc]
        )
        ours, bare = ours - empty_sgx, bare - empty
        met = ours <= bare * limit
        target = f"{limit} of bare"
        found.append(Row("  its CPU time", "ms", ours, bare, "bare", target=target, met=met))
    return found
