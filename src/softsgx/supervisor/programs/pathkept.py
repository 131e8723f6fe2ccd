"""What runs have learned of instructions that are led, and of files, kept for the runs to come.

One file of rows, since every start reads it: what a file is told by, and two words.
"""

from __future__ import annotations

import os
import struct

from softsgx.host import cpuidplans, cpuidsites, kept, pathcode
from softsgx.supervisor.state.run import Run

__all__ = ["recall", "remember"]

_ALL = (1 << 64) - 1
_MOST_KEPT = 64  # files
# Of a file without CPUID instructions a row says that, which is as good as the search for them.
_MAGIC = b"softsgx paths 6\0" + cpuidsites.SEARCH.to_bytes(2, "little")
# The words: where an instruction is, and its call. Or these: no CPUID is there; of the library that
# is led as it is mapped the mapping's offset and length; of each of its instructions where it is in
# the mapping, what it is, and its call. The first row has how many others follow, and how many
# files behind them whose CPUIDs are replaced as they are mapped, each as it is in memory.
_ROW = struct.Struct("<7Q")
_NO_CPUID, _LIBRARY = (0, _ALL), _ALL - 1
_OF_LIBRARY, _WAS, _CALL = 1 << 15, 16, (1 << 15) - 1
_LENGTH = 32
_FILE = struct.Struct("<8Q")  # what it is told by, the mapping's length and offset, its CPUIDs


def recall(run: Run) -> None:
    """What earlier runs have learned."""
    body, most = kept.read(_path(run), _MAGIC, _ROW.size) or b"", pathcode.load().most_files
    files = run.paths.files
    if not body:
        return
    rows, n_mapped, *_ = _ROW.unpack_from(body)
    end = (1 + rows) * _ROW.size
    for row in _ROW.iter_unpack(body[_ROW.size : end]):
        key, at, call = row[:5], row[5], row[6]
        if at == 0 and call == _ALL:
            if len(files) < most:
                files[key] = None
                run.paths.files_new = True
        elif call == _LIBRARY:
            run.paths.library = key, at >> _LENGTH, at & (1 << _LENGTH) - 1
        elif call & _OF_LIBRARY:
            if call & _CALL in pathcode.LED:
                was = (call >> _WAS).to_bytes(6, "little")[:5]
                run.paths.library_sites[at] = call & _CALL, was
        elif call in pathcode.LED:
            run.paths.sites.setdefault(key, {})[at] = call
    for _ in range(n_mapped):
        row = _FILE.unpack_from(body, end)
        length, offset, count = row[5:]
        told = end + _FILE.size
        moved = told + count * cpuidplans.CPUID.size
        end = moved + count * cpuidplans.MOVED_BYTES
        run.paths.cpuids[row[:5]] = length, offset, body[told:moved], body[moved:end], 0
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
    rows.insert(0, ((len(rows), len(run.paths.cpuids), 0, 0, 0), 0, 0))
    packed = [_ROW.pack(*[part & _ALL for part in (*key, at, call)]) for key, at, call in rows]
    for key, (length, offset, told, moved, _) in run.paths.cpuids.items():
        count = len(told) // cpuidplans.CPUID.size
        packed += [_FILE.pack(*[part & _ALL for part in key], length, offset, count), told, moved]
    whole = b"".join(packed)
    kept.write(_path(run), _MAGIC, whole + bytes(-len(whole) % _ROW.size))


def _path(run: Run) -> str:
    return os.path.join(run.cache_dir, "paths")
