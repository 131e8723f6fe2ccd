"""Which design is judged by which release's driver, and what to do with a sequence that fails."""

from __future__ import annotations

from softsgx.designs.base import Design
from softsgx.designs.linux import Linux60, Linux511, Linux612
from tests.kernel_driver.asked import Kernel, judged
from tests.kernel_driver.build import driver_library
from tests.kernel_driver.calls import CALL_BYTES, Walker
from tests.kernel_driver.library import Library
from tests.kernel_driver.sides import Judge
from tests.kernel_driver.userland import areas, user_memory

__all__ = ["JUDGED", "failure", "judge_of", "shrink", "told"]

JUDGED: dict[str, tuple[type[Design], str]] = {
    "linux-6.12": (Linux612, "linux-source-6.12"),
    "linux-6.0": (Linux60, "linux-source-6.1"),
    "linux-5.11": (Linux511, "linux-source-6.1"),
}
"""Design → its class, and the package with the driver that judges it.

Debian has neither 5.11 nor 6.0: 6.1's driver is 6.0's with the changes that
`tests.kernel_driver.explained` lists, and on a CPU without SGX2 5.11's.
"""


def judge_of(name: str, law: type[Design] | None = None, max_pages: int = 16) -> Judge:
    """The judge of a design, for enclaves of so many pages.

    law: what is judged, the design itself if None. Raises MissingSource where the package isn't
    installed.
    """
    design, package = JUDGED[name]
    user, memory = user_memory(), areas()
    library = Library(driver_library(package))
    kernel = Kernel(library, design(), user, memory, epc_pages=4 * max_pages)
    return Judge(kernel, judged(law or design), user, memory, max_pages)


def failure(walker: Walker, data: bytes) -> Exception | None:
    """What a sequence fails with, None if both sides agree."""
    try:
        walker.walk(data)
    except Exception as e:  # an exception of softsgx's own is a finding, too
        return e
    return None


def shrink(walker: Walker, data: bytes) -> bytes:
    """A sequence that fails with fewer calls and smaller numbers."""
    at = 0
    while at < len(data):
        shorter = data[:at] + data[at + CALL_BYTES :]
        if failure(walker, shorter):
            data = shorter
        else:
            at += CALL_BYTES
    for at in range(len(data)):
        for value in (0, 1, 2, 4, 16, 64):
            smaller = data[:at] + bytes([value]) + data[at + 1 :]
            if value < data[at] and failure(walker, smaller):
                data = smaller
                break
    return data


def told(walker: Walker, data: bytes) -> str:
    """A sequence for people: its bytes, its calls, and how it ends."""
    walker.trace = []
    error = failure(walker, data)
    lines = [data.hex(), *walker.trace, f"{type(error).__name__}: {error}"]
    walker.trace = None
    return "\n".join(lines)
