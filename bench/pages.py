"""What the table of an enclave's pages costs: operations on 64 GiB, and on its worst case.

Run: ``PYTHONPATH=src python bench/pages.py``. The best of five rounds counts. The worst
case has neighbours that all differ: eight bytes a page, and a step for each.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

from softsgx.sgx.epcm import PageTable

ROUNDS = 5


def best_ms(work: Callable[[], object]) -> float:
    """The fastest of the rounds, in milliseconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def table(name: str, gib: int, make: Callable[[PageTable], None]) -> None:
    """Print one table's memory and times."""
    n = gib << 18
    tracemalloc.start()
    pages = PageTable(n)
    make(pages)
    kib = tracemalloc.get_traced_memory()[0] / 1024
    tracemalloc.stop()
    rows = {
        "distinct": lambda: pages.distinct(0, n),
        "runs": lambda: sum(1 for _ in pages.runs(0, n)),
        "copy": pages.copy,
        "fill": lambda: pages.copy().fill(1, n - 1, 9),
    }
    times = "  ".join(f"{what} {best_ms(work):.3f} ms" for what, work in rows.items())
    print(f"{name}, {gib} GiB: {kib:.0f} KiB  {times}")


def sparse(pages: PageTable) -> None:
    """Three segments of different permissions, the rest absent."""
    for first, word in ((0, 1), (5000, 2), (90000, 3)):
        pages.fill(first, first + 4000, word)


def striped(pages: PageTable) -> None:
    """No two neighbours alike."""
    for page in range(0, pages.n_pages, 2):
        pages[page] = 1


if __name__ == "__main__":
    table("empty", 64, lambda _: None)
    table("three segments", 64, sparse)
    table("striped", 1, striped)
