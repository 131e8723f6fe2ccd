"""The device's secret, kept between runs: what one run has sealed, the next one can open.

It lies in ``$SOFTSGX_STATE_DIR``, else ``$XDG_STATE_HOME/softsgx``, else
``~/.local/state/softsgx``, as ``root.key``: 32 random bytes, mode 0600. Two runs that start at once
must get the same secret, so it is written to a file of its own and then linked to its name: link(2)
does not replace, and whoever comes second reads what the first has made.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from errno import EFBIG

from softsgx.errors import UsageError

__all__ = ["ROOT_KEY_SIZE", "root_key", "state_dir"]

ROOT_KEY_SIZE = 32
_NAME = "root.key"


def state_dir(environ: Mapping[str, str] | None = None) -> str:
    """The folder for what outlives a run; it need not exist. ``environ`` is os.environ if None."""
    env = os.environ if environ is None else environ
    own = env.get("SOFTSGX_STATE_DIR")
    if own:
        return own
    # The XDG specification says to ignore a path that is not absolute.
    base = env.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(env.get("HOME") or os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "softsgx")


def root_key(directory: str | None = None) -> bytes:
    """The device's secret (32 bytes), made at the first call.

    ``directory`` is :func:`state_dir` if None. UsageError if it cannot be read or made, if others
    can read it, or if it has another length.
    """
    directory = state_dir() if directory is None else directory
    path = os.path.join(directory, _NAME)
    try:
        key = _read(path)
        if key is None:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _create(path)
            key = _read(path)
    except OSError as error:
        remedy = "set SOFTSGX_STATE_DIR to keep it elsewhere"
        if error.errno == EFBIG:
            remedy = "raise the limit of what a file may be, ulimit -f"
        raise UsageError(
            f"{error.filename or path}: {error.strerror} (the device's secret; {remedy})"
        ) from error
    if key is None or len(key) != ROOT_KEY_SIZE:
        raise UsageError(f"{path}: not {ROOT_KEY_SIZE} bytes; remove it to have a new secret made")
    return key


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & 0o077:
            raise UsageError(f"{path}: mode {mode:04o}, others can get at it; chmod it to 0600")
        return os.read(fd, ROOT_KEY_SIZE + 1)
    finally:
        os.close(fd)


def _create(path: str) -> None:
    draft = f"{path}.{os.getpid()}.{os.urandom(8).hex()}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, os.urandom(ROOT_KEY_SIZE))
            os.fsync(fd)
        finally:
            os.close(fd)
        try:  # noqa: SIM105 (contextlib costs start-up time)
            os.link(draft, path)
        except FileExistsError:
            pass
    finally:
        os.unlink(draft)
