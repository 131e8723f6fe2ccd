"""Loading an enclave: copy, check and measure, beside SHA-256 of the same bytes alone.

A measured page is 5,184 bytes of SHA-256, so raw hashing of as many bytes is the bare figure.
"""

from __future__ import annotations

import hashlib
import os
import time

from bench.common import Row, figures, guest, in_turn, softsgx

__all__ = ["rows"]

_PAGE_HASHED = 5184
_BATCH = bytes(64 * _PAGE_HASHED)
_MIB, _SMALL_MIB = 256, 16
_HEAP_MIB = 100  # 25,600 pages, as Intel's loader adds a heap
_TWO_CORES, _ONE_CORE = 1.1, 1.5
_PAGE_US = 20


def _raw_us_a_page() -> dict[str, float]:
    digest = hashlib.sha256()
    start = time.perf_counter()
    for _ in range(256):
        digest.update(_BATCH)
    return {"us": (time.perf_counter() - start) / (256 * 64) * 1e6}


def _us_a_page(mib: int, chunk_kib: int, *extra: str) -> dict[str, float]:
    command = softsgx(guest("big"), "load", str(mib), str(chunk_kib), *extra)
    found = figures(command)
    return {"us": 4096 / found["load_mb_per_s"], "cpu": found["cpu_us"]}


def rows(rounds: int) -> list[Row]:
    """Chunks of 1 MiB, measured and not; a page an ioctl, as the SDKs of Intel and Fortanix do."""
    raw, large, unmeasured, small, none, heap = in_turn(
        rounds,
        _raw_us_a_page,
        lambda: _us_a_page(_MIB, 1024),
        lambda: _us_a_page(_MIB, 1024, "unmeasured"),
        lambda: _us_a_page(_SMALL_MIB, 4),
        lambda: _us_a_page(1, 1024),
        lambda: _us_a_page(_HEAP_MIB, 4, "unmeasured") if rounds > 1 else {"us": 0.0, "cpu": 0.0},
    )
    us = raw["us"]
    spent = (small["cpu"] - none["cpu"]) / ((_SMALL_MIB - 1) * 256)
    limit = _TWO_CORES if len(os.sched_getaffinity(0)) > 1 else _ONE_CORE
    met = large["us"] <= limit * us
    found = [
        Row(f"{_MIB} MiB, 1 MiB an ioctl: a page", "us", large["us"], us, "raw SHA-256",
            target=f"{limit} of raw", met=met),
        Row(f"{_MIB} MiB, not measured: a page", "us", unmeasured["us"], us, "raw SHA-256"),
        Row(f"{_SMALL_MIB} MiB, a page an ioctl: a page", "us", small["us"], us, "raw SHA-256",
            target=f"{_PAGE_US} us", met=small["us"] <= _PAGE_US),
        Row("  its CPU time, whatever runs beside", "us", spent, us, "raw SHA-256",
            target=f"{_PAGE_US} us", met=spent <= _PAGE_US),
    ]  # fmt: skip
    if heap["us"]:
        name = f"{_HEAP_MIB} MiB of heap, a page an ioctl: a page"
        found.append(Row(name, "us", heap["us"], us, "raw SHA-256"))
    return found
