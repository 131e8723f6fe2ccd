"""What a program pays that uses no SGX: it maps a lot, or opens and asks for files a lot.

softsgx looks at every open, stat and access of a path (that is how the device appears) and
at shared or executable mappings of files; nothing else stops.
"""

from __future__ import annotations

from bench.common import Row, figures, guest, in_turn, program, softsgx

__all__ = ["rows"]

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
    for key, name in (
        ("open_ns", "open and close of a file"),
        ("stat_ns", "stat of a file"),
        ("read_ns", "read of 4 KiB"),
        ("exec_ns", "fork, exec, wait"),
    ):
        found.append(Row(name, "us", files_sgx[key] / 1e3, files_bare[key] / 1e3, "bare"))
    return found
