"""Which paths a program's calls stop for, by their last component: before it has made any."""

from __future__ import annotations

import os

from softsgx.supervisor.state.run import Run

__all__ = ["OF_MAPPINGS", "VIEWS", "concern"]

VIEWS = frozenset((b"maps", b"smaps", b"cpuinfo", b"misc"))
"""What `softsgx.supervisor.calls.views` has something to say of."""
OF_MAPPINGS = (b"maps", b"smaps")
"""As they are where nobody has an enclave."""
_OPENED = frozenset((b"mem",))  # and "." and "..", which the code knows
# What is asked of a view by its name, its descriptor has to answer alike.
_LAST = frozenset((b"stdin", b"stdout", b"stderr")) | VIEWS.difference(OF_MAPPINGS)


def concern(run: Run) -> tuple[frozenset[bytes], frozenset[bytes], frozenset[bytes]]:
    """The last components of paths that matter, of paths that are opened, and once a device is."""
    opened = _OPENED | {os.path.basename(parent) for parent in run.nodes.folders.parents}
    if run.lsm is not None:
        from softsgx.supervisor.calls.magic import ATTRIBUTES

        opened |= ATTRIBUTES
    return _LAST | run.nodes.folders.last, opened, frozenset(OF_MAPPINGS)
