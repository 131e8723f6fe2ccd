"""The memory that the arguments of the calls lie in, and the sources of pages."""

from __future__ import annotations

from softsgx.sdm.structs import TCS
from tests.kernel_driver.library import User
from tests.kernel_driver.memory import PAGE, UserArea

__all__ = ["ARGUMENT", "EDGE", "READ_ONLY", "RECORD", "SOURCES", "USER", "areas", "user_memory"]

R, W, X = 1, 2, 4
USER = 0x1000_0000
ARGUMENT, RECORD, READ_ONLY, SOURCES, EDGE = (USER + n * PAGE for n in (0, 1, 3, 4, 16))
"""Where an ioctl's argument is, what it points at, a page that cannot be written, eight pages to
add, and the end of what is in a file."""


def areas() -> list[UserArea]:
    """The memory that arguments and sources lie in."""
    return [
        UserArea(USER, 3, R | W),
        UserArea(READ_ONLY, 1, R),
        UserArea(SOURCES, 8, R | W),
        UserArea(USER + 12 * PAGE, 1, R | W, R | W),  # of a noexec mount
        UserArea(USER + 13 * PAGE, 1, 0),
        UserArea(USER + 14 * PAGE, 1, X),
        UserArea(USER + 15 * PAGE, 2, R | W, eof=1),
    ]


def user_memory() -> User:
    """That memory's content: the sources are pages of several kinds, TCSs among them."""
    user = User(USER, 17 * PAGE)
    tcs = TCS.pack(oentry=0x1000, ossa=0x1000, nssa=2, fslimit=0xFFF, gslimit=0xFFF)
    pages = (
        bytes(PAGE),
        b"softsgx!" * 512,
        tcs,
        TCS.pack(flags=1, cssa=1, aep=5, stage=1, nssa=1),
        TCS.pack(flags=2, nssa=1),
        TCS.pack(flags=4, nssa=1),
        tcs[:-1] + b"\1",
        TCS.pack(nssa=3, oentry=0x2000),
    )
    for i, page in enumerate(pages):
        start = SOURCES - USER + i * PAGE
        user.view[start : start + PAGE] = page
    start = 12 * PAGE
    user.view[start : start + PAGE] = b"noexec!!" * 512
    return user
