"""The label of a path, on a machine whose files mostly have none.

A kernel with SELinux reads the label of an inode. Here the file may carry one
(``security.selinux`` is an ordinary attribute without SELinux), the policy may come with
a file_contexts that says what the label ought to be, or neither. In that order: what the
user said, the attribute, file_contexts by libselinux, a guess for device nodes, and the
label that the kernel gives to a file without one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from softsgx.errors import UsageError
from softsgx.policy.native import Selabel
from softsgx.policy.selinux import SELinuxPolicy

__all__ = ["PathLabels"]

# The types that Fedora's policy has for them; Debian's has device_t alone.
_DEVICE_TYPES = {
    "/dev/sgx_enclave": "sgx_enclave_device_t",
    "/dev/sgx/enclave": "sgx_enclave_device_t",
    "/dev/sgx_provision": "sgx_provision_device_t",
    "/dev/sgx/provision": "sgx_provision_device_t",
    "/dev/sgx_vepc": "sgx_vepc_device_t",
    "/dev/zero": "zero_device_t",
}


class PathLabels:
    """Labels of paths under one policy.

    `file_contexts` is a file in file_contexts(5) syntax (default: the ``filecon``
    statements of a CIL policy); `labels` maps paths to contexts and goes before
    everything else; `xattrs` says whether a file's own attribute is looked at. Raises
    UsageError for a context that the policy does not know, or a file that is none;
    UnsupportedError when libselinux is missing but needed.
    """

    __slots__ = ("_cache", "_contexts", "_given", "_memory", "_policy", "_xattrs")

    def __init__(
        self,
        policy: SELinuxPolicy,
        *,
        file_contexts: str | None = None,
        labels: Mapping[str, str] | None = None,
        xattrs: bool = True,
    ) -> None:
        self._policy = policy
        self._xattrs = xattrs
        self._given = dict(labels or {})
        for path, context in self._given.items():
            if not policy.valid(context):
                raise UsageError(f"{path}: not a context of {policy.where}: {context}")
        self._cache: dict[tuple[str, int], str] = {}
        self._contexts: Selabel | None = None
        self._memory = -1
        if file_contexts is not None:
            self._contexts = _open_contexts(file_contexts)
        elif policy.file_contexts:
            # libselinux reads a file by name: give it one in memory.
            self._memory = os.memfd_create("file_contexts", os.MFD_CLOEXEC)
            with open(self._memory, "wb", closefd=False) as memory:
                memory.write(policy.file_contexts)
            self._contexts = _open_contexts(f"/proc/self/fd/{self._memory}")

    def close(self) -> None:
        """Free what libselinux holds."""
        if self._contexts is not None:
            self._contexts.close()
            self._contexts = None
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def label_for_path(self, path: str, mode: int | None = None) -> str:
        """Return the context of a file by its absolute path.

        `mode` are its S_IFMT bits where they are known (a device that is not there has
        none to look at); else the file is looked at, and one that is missing counts as a
        regular file.
        """
        if path in self._given:
            return self._given[path]
        own = self._own_label(path) if self._xattrs else None
        if own is not None:
            return own
        if mode is None:
            mode = _mode_of(path)
        key = (path, stat.S_IFMT(mode))
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = self._expected(*key)
        return found

    def _own_label(self, path: str) -> str | None:
        try:
            raw = os.getxattr(path, "security.selinux", follow_symlinks=True)
        except OSError:
            return None
        context = os.fsdecode(raw.rstrip(b"\0"))
        return context if self._policy.valid(context) else None

    def _expected(self, path: str, mode: int) -> str:
        if self._contexts is not None:
            context = self._contexts.lookup(path, mode)
            if context is not None:
                if not self._policy.mls:
                    context = ":".join(context.split(":")[:3])
                if self._policy.valid(context):
                    return context
        level = ":s0" if self._policy.mls else ""
        if path.startswith("/dev/"):
            for name in (_DEVICE_TYPES.get(path), "device_t"):
                context = f"system_u:object_r:{name}{level}"
                if name is not None and self._policy.valid(context):
                    return context
        for sid in ("file", "unlabeled"):
            initial = self._policy.initial_context(sid)
            if initial is not None:
                return initial
        raise UsageError(f"{self._policy.where}: the policy says nothing of files without a label")


def _open_contexts(path: str) -> Selabel:
    if not os.path.exists(path):
        raise UsageError(f"{path}: no such file of file contexts")
    contexts = Selabel(path)
    if not contexts.opened:
        raise UsageError(f"{path}: libselinux cannot read it as file contexts")
    return contexts


def _mode_of(path: str) -> int:
    if path in _DEVICE_TYPES:
        return stat.S_IFCHR
    try:
        return os.stat(path).st_mode
    except OSError:
        return stat.S_IFREG
