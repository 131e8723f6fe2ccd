"""What a security module keeps of an open file and its inode.

One record a file, as its attribute ``security``: struct file's and struct inode's
blobs in one, since the files that matter here have an inode each.
"""

from __future__ import annotations

__all__ = ["FileSecurity"]


class FileSecurity:
    """A file as a security module sees it.

    path: as audited. label, tclass: of the inode (SELinux). private: S_PRIVATE, 0 or 1.
    opener: the label of who opened it. fmode: R and W. dev, ino: as audited, or None.
    anonclass: the name of a labelled anonymous inode, or None. unmediated: AppArmor does
    not look at it. allow: AppArmor's cached permissions; checked: the profiles that they
    were checked for; owner: the inode's uid. holders: the processes that opened,
    inherited or were allowed to receive the descriptor.
    """

    __slots__ = (
        "allow",
        "anonclass",
        "checked",
        "dev",
        "fmode",
        "holders",
        "ino",
        "label",
        "opener",
        "owner",
        "path",
        "private",
        "tclass",
        "unmediated",
    )

    def __init__(
        self,
        path: str = "",
        label: str = "",
        tclass: str = "file",
        *,
        opener: str = "",
        fmode: int = 3,
        private: int = 0,
        dev: str | None = None,
        ino: int | None = None,
        anonclass: str | None = None,
        unmediated: int = 0,
        owner: int = 0,
    ) -> None:
        self.path, self.label, self.tclass = path, label, tclass
        self.opener, self.fmode, self.private = opener, fmode, private
        self.dev, self.ino, self.anonclass = dev, ino, anonclass
        self.unmediated, self.owner = unmediated, owner
        self.allow = 0
        self.checked: frozenset[str] = frozenset({opener})
        self.holders: set[int] = set()
