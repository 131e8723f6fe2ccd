"""What the user has set of the platform that quotes speak of: ``platform.json`` in its state.

FMSPC and PPID follow from the device's secret; who tests a relying party that expects others
sets them, and every run and document has them from then on.
"""

from __future__ import annotations

import json
import os

from softsgx.attest.platform import FMSPC_SIZE, PPID_SIZE, Platform
from softsgx.errors import UsageError
from softsgx.host.state import root_key, state_dir

__all__ = ["load_platform", "set_platform"]

_NAME = "platform.json"
_SIZES = {"fmspc": FMSPC_SIZE, "ppid": PPID_SIZE}


def load_platform(directory: str | None = None) -> Platform:
    """The platform of the state folder (`state_dir` if None); its secret is made if need be.

    UsageError where its files cannot be read or say nothing that can be.
    """
    directory = state_dir() if directory is None else directory
    return Platform(root_key(directory), **_settings(directory))


def set_platform(values: dict[str, str], directory: str | None = None) -> Platform:
    """Set fmspc and ppid (hex; "": as the secret gives it), keep the others: the platform."""
    directory = state_dir() if directory is None else directory
    kept = {name: value.hex() for name, value in _settings(directory).items()}
    kept |= {name: _bytes(f"--{name}", name, value).hex() for name, value in values.items()}
    kept = {name: value for name, value in kept.items() if value}
    path = os.path.join(directory, _NAME)
    draft = f"{path}.{os.getpid()}"
    root_key(directory)  # makes the folder
    try:
        with open(draft, "w") as f:
            json.dump(kept, f)
        os.replace(draft, path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return load_platform(directory)


def _settings(directory: str) -> dict[str, bytes]:
    path = os.path.join(directory, _NAME)
    try:
        with open(path, "rb") as f:
            found = json.load(f)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.keys() - _SIZES.keys():
        raise UsageError(f"{path}: not what 'softsgx attest platform' writes; remove it")
    return {name: _bytes(path, name, value) for name, value in found.items()}


def _bytes(where: str, name: str, text: object) -> bytes:
    size = _SIZES[name]
    try:
        value = bytes.fromhex(text) if isinstance(text, str) else None
    except ValueError:
        value = None
    if value is None or len(value) not in (0, size):
        raise UsageError(f"{where}: {name} {text!r} is not {2 * size} hexadecimal digits")
    return value
