"""How fast MRENCLAVE is measured, as a ratio to raw SHA-256 of the same bytes in the same run.

Run: ``PYTHONPATH=src python bench/measure.py [pages]`` (default 16384 pages, 64 MiB).
A measured page is 5,184 bytes of SHA-256. The best of five rounds counts, for raw and ours alike.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable

from softsgx.sgx.late import LateMeasurement
from softsgx.sgx.measure import Measurement

PAGE, RX_REG, MIB = 4096, 0x205, 1 << 20


def best_us_a_page(work: Callable[[], None], n_pages: int) -> float:
    """The fastest of five rounds, in microseconds a page."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) / n_pages * 1e6


def main() -> None:
    """Print one line a way of measuring: microseconds a page, ratio to raw SHA-256."""
    n_pages = int(sys.argv[1]) if len(sys.argv) > 1 else 16384
    n_single = min(n_pages, 2048)
    fd = os.memfd_create("bench")
    blob = os.urandom(MIB)
    for at in range(0, n_pages * PAGE, MIB):
        os.pwrite(fd, blob, at)
    batch = bytes(64 * 5184)

    def raw() -> None:
        digest = hashlib.sha256()
        for _ in range(0, n_pages, 64):
            digest.update(batch)

    def from_fd() -> None:
        Measurement().add_pages_from_fd(fd, 0, 0, n_pages, RX_REG)

    def from_bytes() -> None:
        m = Measurement()
        for at in range(0, n_pages * PAGE, MIB):
            m.add_pages(at, RX_REG, blob)

    def single_pages() -> None:
        m = Measurement()
        for i in range(n_single):
            m.add_pages_from_fd(fd, i << 12, i << 12, 1, RX_REG)

    def late_single_pages() -> None:
        late = LateMeasurement()
        for i in range(n_pages):
            late.add_pages_from_fd(fd, i << 12, i << 12, 1, RX_REG)
        late.digest()
        late.close()

    def by_record() -> None:
        m = Measurement()
        view = memoryview(blob)
        for i in range(256):
            m.add_page_masked(i << 12, RX_REG, view[i << 12 : (i + 1) << 12], 0xFFFF)

    raw_us = best_us_a_page(raw, n_pages)
    print(f"raw SHA-256: {raw_us:.2f} us a page, {5184 / raw_us:.0f} MB/s")
    for name, work, pages in (
        ("from a memfd, one call", from_fd, n_pages),
        ("from bytes, 1 MiB a call", from_bytes, n_pages),
        ("from a memfd, a page a call", single_pages, n_single),
        ("late, a page a call", late_single_pages, n_pages),
        ("record by record", by_record, 256),
    ):
        us = best_us_a_page(work, pages)
        print(f"{name}: {us:.2f} us a page, {raw_us / us:.2f} of raw")


if __name__ == "__main__":
    main()
