"""How memory became executable, by what the kernel's VMA was when it was asked for it.

SELinux's execheap, execstack and execmod are about the VMA that an mprotect changes, as it
was before: afterwards it is split, merged or named otherwise, and /proc/PID/maps of the
piece does not tell any more. So, under a security module, the calls that make memory
executable stop (`softsgx.supervisor.programs.executable`), and what they met is noted here
once the kernel has granted them. A module is asked when pages are added from such memory
(docs/decisions/0004), and then of this.

munmap and mappings that are not executable do not stop. What they leave behind is told by
the mapping itself: a note counts only for the same file at the same place, and an executable
mapping begins anew.
"""

from __future__ import annotations

from softsgx.host import procmaps
from softsgx.supervisor.state.patched import pages

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Note", "cut", "layout", "notes_at", "thinned", "written"]


class Note:
    """One question of the kernel's, about [start, end) of a process.

    vma_start, vma_end: of the VMA when it was asked. prot: what was asked for, with X.
    before: what the VMA had, None for a new mapping. how: MAP_SHARED 1, MAP_PRIVATE 2,
    MAP_SHARED_VALIDATE 3. inode: 0 without a file. base: where the file's offset 0 would
    lie. heap, stack, modified: the conditions of selinux_file_mprotect(). asked: the processes
    whose module was asked and granted it.
    """

    def __init__(
        self,
        start: int,
        end: int,
        prot: int,
        how: int,
        inode: int,
        base: int,
        vma: tuple[int, int] | None = None,
        before: int | None = None,
    ) -> None:
        self.start, self.end, self.prot, self.how = start, end, prot, how
        self.inode, self.base, self.before = inode, base, before
        self.vma_start, self.vma_end = vma or (start, end)
        self.heap = self.stack = self.modified = False
        self.asked: set[int] = set()

    def within(self, start: int, end: int, by: int = 0) -> Note:
        """The same of a part of the range, moved by ``by`` bytes."""
        piece = Note(
            start + by, end + by, self.prot, self.how, self.inode, self.base + by,
            (self.vma_start, self.vma_end), self.before,
        )  # fmt: skip
        piece.heap, piece.stack, piece.modified = self.heap, self.stack, self.modified
        piece.asked = self.asked
        return piece

    def of(self, found: Any) -> bool:
        """Whether it can be about this mapping."""
        if (self.how != 2) != bool(found.shared) or self.inode != found.inode:
            return False
        return not self.inode or self.base == found.start - found.offset

    def facts(self) -> tuple[Any, ...]:
        """What a module's answer depends on."""
        return (self.prot, self.before, self.how, self.heap, self.stack, self.modified)

    def key(self) -> tuple[Any, ...]:
        """What makes two notes the same: a program may change its code again and again."""
        return (self.start, self.end, self.inode, self.base, *self.facts())


def notes_at(notes: list[Note], addr: int, found: Any) -> list[Note]:
    """What was asked of the mapping ``found`` at an address, in order, each question once."""
    seen: dict[tuple[Any, ...], Note] = {}
    for note in notes:
        if note.start <= addr < note.end and note.of(found):
            seen.setdefault(note.facts(), note)
    return list(seen.values())


def cut(notes: list[Note], start: int, end: int) -> list[Note]:
    """The notes without [start, end)."""
    left = []
    for note in notes:
        if note.end <= start or end <= note.start:
            left.append(note)
            continue
        if note.start < start:
            left.append(note.within(note.start, start))
        if end < note.end:
            left.append(note.within(end, note.end))
    return left


def thinned(notes: list[Note], maps: list[Any]) -> list[Note]:
    """As few notes as say the same of the mappings that there are, in the same order.

    What is about none of them goes, and notes of the same question are one where they touch. A
    program that makes code executable for ever has no more notes than its mappings take.
    """
    alike: dict[tuple[Any, ...], list[Note]] = {}
    for note in notes:
        if any(m.start < note.end and note.start < m.end and note.of(m) for m in maps):
            key = (note.inode, note.base if note.inode else 0, note.facts())
            alike.setdefault(key, []).append(note)
    left = []
    for same in alike.values():
        same.sort(key=lambda note: note.start)
        whole = same[0]
        for note in same[1:]:
            if note.start > whole.end:
                left.append(whole)
                whole = note
                continue
            asked = whole.asked & note.asked
            whole = whole.within(whole.start, max(whole.end, note.end))
            whole.base, whole.asked = min(whole.base, note.base), asked
        left.append(whole)
    return left


def layout(pid: int) -> tuple[int, int]:
    """Where the heap begins and where the stack began: start_brk and startstack of stat(5)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[44]), int(fields[25])


def written(space: Any, found: Any) -> bool:
    """Whether a private file mapping has pages of its own that are not our doing.

    The kernel asks for an anon_vma, which it does not show; it comes with the first such page,
    which may be swapped out by now.
    """
    ours = pages(space, found.start, found.end)
    kib = [
        procmaps.smaps_field(space.seen, found.start, name) for name in (b"Anonymous:", b"Swap:")
    ]
    return sum([int(text.split()[0]) for text in kib if text is not None]) > 4 * len(ours)
