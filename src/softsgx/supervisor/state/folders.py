"""The folders that the device's nodes are in, some of which this machine lacks: /dev/sgx, say."""

from __future__ import annotations

import os

__all__ = ["Folders"]


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


class Folders:
    """The folders of some nodes that are not there. paths: of the nodes.

    last: their names; parents: the folders, which are there, that nodes or they are in.
    """

    def __init__(self, paths: list[str]) -> None:
        self._names: dict[str, list[str]] = {}
        for path in paths:
            folder, name = os.path.split(path)
            if not os.path.isdir(folder):
                self._names.setdefault(folder, []).append(name)
        self._here = {
            path for path in (*paths, *self._names) if os.path.isdir(os.path.dirname(path))
        }
        self.parents = frozenset(os.path.dirname(path).encode() for path in self._here)
        self.last = frozenset(os.path.basename(folder).encode() for folder in self._names)
        self._made: dict[str, str] = {}

    def stands_for(self, there: os.stat_result, folder: str) -> bool:
        """Whether a directory is a folder of the nodes, or what stands for it."""
        try:
            own = os.stat(self._made.get(folder, folder))
        except OSError:
            return False
        return os.path.samestat(there, own)

    def told_by(self) -> list[tuple[int, int]]:
        """What `parents` are told by: st_ino and st_dev of each."""
        found = []
        for parent in sorted(self.parents):  # the same in each run
            try:
                info = os.stat(parent)
            except OSError:  # it is there no more
                continue
            found.append((info.st_ino, info.st_dev))
        return found

    def lacking(self, parent: str) -> tuple[list[str], list[str]]:
        """What a folder that is there lacks: nodes and folders."""
        paths = [p for p in sorted(self._here) if os.path.dirname(p) == parent]
        lacks = [p for p in paths if not os.path.lexists(p)]
        return [p for p in lacks if p not in self._names], [p for p in lacks if p in self._names]

    def named(self, path: bytes) -> str | None:
        """The folder that a path names, or None."""
        text = os.path.normpath(os.fsdecode(path))
        for folder in self._names:
            parent, base = os.path.split(folder)
            if os.path.basename(text) == base and _same(os.path.dirname(text), parent):
                return folder
        return None

    def stand_in(self, folder: str) -> str:
        """The temporary folder that stands for one."""
        if folder not in self._made:
            import tempfile

            made = tempfile.mkdtemp(prefix="softsgx-dev-")
            os.chmod(made, 0o755)
            for name in self._names[folder]:
                with open(os.path.join(made, name), "x"):
                    pass
            self._made[folder] = os.path.realpath(made)
        return self._made[folder]

    def close(self) -> None:
        """The end of the run."""
        if not self._made:
            return
        import shutil  # 10 ms to import

        for made in self._made.values():
            shutil.rmtree(made, ignore_errors=True)
