"""How far a long check is, in a terminal: a bar, and the pairs that are being checked.

On the terminal's own stream alone, gone when the check ends, and nothing without rich.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

__all__ = ["progress"]

Tell = Callable[[int, int, Sequence[tuple[str, str]]], None]


def _nothing(_done: int, _total: int, _running: Sequence[tuple[str, str]]) -> None:
    pass


@contextmanager
def progress(stream: TextIO) -> Iterator[Tell]:
    """A function to tell (pairs done, all pairs, those that are being checked).

    It draws from the caller's thread, when it is told: the process that forks has no other.
    """
    if not stream.isatty():
        yield _nothing
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed
        from rich.table import Column
    except ImportError:
        yield _nothing
        return
    text = TextColumn(
        "{task.description}", markup=False,
        table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
    )  # fmt: skip
    bar = Progress(
        MofNCompleteColumn(), BarColumn(bar_width=20), Elapsed(), text, expand=True,
        console=Console(file=stream), transient=True, auto_refresh=False,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=None)

        def tell(done: int, total: int, running: Sequence[tuple[str, str]]) -> None:
            words = ", ".join(f"{design} {name}" for design, name in running)
            bar.update(task, completed=done, total=total, description=words, refresh=True)

        yield tell
