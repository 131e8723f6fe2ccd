"""What runs have learned of instructions that are led, and of files, kept for the runs to come.

One file of rows, since every start reads it: what a file is told by, and two words.
"""

from __future__ import annotations

import os
import struct

from softsgx.host import cpuidsites, kept, pathcode
from softsgx.supervisor.state.run import Run

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["recall", "remember"]

_ALL = (1 << 64) - 1
_MOST_KEPT = 64  # files
# Of a file without CPUID instructions a row says that, which is as good as the search for them.
_MAGIC = b"softsgx paths 5\0" + cpuidsites.SEARCH.to_bytes(2, "little")
# The words: where an instruction is, and its call. Or these: no CPUID is there; of the library that
# is led as it is mapped, and of a file whose CPUIDs are replaced then, the mapping's offset and
# length; of each of its instructions where it is in the mapping, what it is, and its call. Behind
# a file whose CPUIDs are replaced follow these, each where it is in the mapping, and in place of
# what tells the file how long what is led before it is, and that.
_ROW = struct.Struct("<7Q")
_NO_CPUID, _LIBRARY, _MAPPED, _CPUID = (0, _ALL), _ALL - 1, _ALL - 2, _ALL - 3
_OF_LIBRARY, _WAS, _CALL = 1 << 15, 16, (1 << 15) - 1
_LENGTH = 32
_MOVED = struct.Struct("<3Q")


def recall(run: Run) -> None:
    """What earlier runs have learned."""
    body, most = kept.read(_path(run), _MAGIC, _ROW.size) or b"", pathcode.load().most_files
    files = run.paths.files
    mapped: dict[Any, tuple[int, int, list[tuple[int, bytes]]]] = {}
    sites: list[tuple[int, bytes]] = []
    for row in _ROW.iter_unpack(body):
        key, at, call = row[:5], row[5], row[6]
        if at == 0 and call == _ALL:
            if len(files) < most:
                files[key] = None
                run.paths.files_new = True
        elif call == _LIBRARY:
            run.paths.library = key, at >> _LENGTH, at & (1 << _LENGTH) - 1
        elif call == _MAPPED:
            sites = []
            mapped[key] = at & (1 << _LENGTH) - 1, at >> _LENGTH, sites
        elif call == _CPUID:
            sites.append((at, _MOVED.pack(*key[1:4])[: key[0]]))
        elif call & _OF_LIBRARY:
            if call & _CALL in pathcode.LED:
                was = (call >> _WAS).to_bytes(6, "little")[:5]
                run.paths.library_sites[at] = call & _CALL, was
        elif call in pathcode.LED:
            run.paths.sites.setdefault(key, {})[at] = call
    for key, (length, offset, sites) in mapped.items():
        run.paths.cpuids[key] = length, offset, tuple(sites), 0
        run.paths.files_new = True


def remember(run: Run) -> None:
    """Keep what was learned for the next run, of the files that were met last."""
    if not run.paths.learned:
        return
    rows = [
        (key, at, call)
        for key, of in list(run.paths.sites.items())[-_MOST_KEPT:]
        for at, call in of.items()
    ]
    rows += [(key, *_NO_CPUID) for key in run.paths.files]
    if run.paths.library is not None:
        key, offset, length = run.paths.library
        rows.append((key, offset << _LENGTH | length, _LIBRARY))
        for at, (call, was) in run.paths.library_sites.items():
            rows.append((key, at, int.from_bytes(was, "little") << _WAS | _OF_LIBRARY | call))
    for key, (length, offset, sites, _) in run.paths.cpuids.items():
        rows.append((key, offset << _LENGTH | length, _MAPPED))
        for at, moved in sites:
            words = _MOVED.unpack(moved.ljust(_MOVED.size, b"\0")[: _MOVED.size])
            rows.append(((len(moved), *words, 0), at, _CPUID))
    packed = [_ROW.pack(*[part & _ALL for part in (*key, at, call)]) for key, at, call in rows]
    kept.write(_path(run), _MAGIC, b"".join(packed))


def _path(run: Run) -> str:
    return os.path.join(run.cache_dir, "paths")
