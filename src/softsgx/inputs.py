"""Files that a user names to be read to their end."""

from __future__ import annotations

import os
import stat
from errno import EINVAL
from io import BufferedReader

__all__ = ["opened"]

_NULL = os.makedev(1, 3)  # Linux, Documentation/admin-guide/devices.txt


def opened(path: str) -> BufferedReader:
    """Open a file, a pipe or a terminal. Raises OSError, also for a device that may have no end.

    As /dev/zero and /dev/full have none: what is read of them takes all memory.
    """
    file = open(path, "rb")  # noqa: SIM115 - who asked closes it
    of = os.fstat(file.fileno())
    if stat.S_ISCHR(of.st_mode) and of.st_rdev != _NULL and not file.isatty():
        file.close()
        raise OSError(EINVAL, "it is a device, and may have no end; give a file", path)
    return file
