"""The questions that the kernel, or a design, puts to a security module.

A rule asks ``k.ask(HOOK, at, ARGUMENTS)``. What a module makes of the hook (which
permissions, of which object, in which order) stands in `softsgx.lsm.selinux` and
`softsgx.lsm.apparmor`, in the form of rules: no branch on a value of the state, so
that one text is decided with a real policy and, elsewhere, over permissions that
are left open.

``at`` is the place: ``process`` (who asks), ``file`` (the object: a device's file, a
segment's, None for anonymous memory), for mprotect ``vma`` (its cell) and ``area``
(the `softsgx.mm.vma.Vma`).
"""

from __future__ import annotations

from typing import Any, Protocol

from softsgx.law.values import Value

__all__ = ["HOOKS", "Facts", "Hooks"]

HOOKS: dict[str, tuple[str, ...]] = {
    # fmode: R and W.
    "file_open": ("fmode",),
    # A process uses a file that it neither opened nor inherited.
    "file_receive": (),
    # cmd: the ioctl's number.
    "file_ioctl": ("cmd",),
    # prot: what will be mapped; reqprot: as asked, without READ_IMPLIES_EXEC's addition.
    # map_type: MAP_SHARED 1, MAP_PRIVATE 2, MAP_SHARED_VALIDATE 3.
    "mmap_file": ("reqprot", "prot", "map_type"),
    "file_mprotect": ("reqprot", "prot"),
    # name: "[sgx_segment_rx]"; the file gets its label here.
    "anon_inode_init": ("name",),
    # Modified code of the file would be executed. No hook of Linux: SELinux asks it
    # within file_mprotect, a design may ask it by itself.
    "file_execmod": (),
    # The hooks of the RFC "security: x86/sgx: SGX vs. LSM" (June 2019), which Linux has not; _vN:
    # as an earlier version of it had them. About a page's source (``at.source``) and what
    # the page may be mapped with at most (prot).
    "enclave_load": ("prot", "measured"),
    "enclave_load_v3": ("prot", "measured"),
    "enclave_load_v2": ("prot",),
    # v1's one hook could also shrink what was asked for: its two questions.
    "enclave_load_v1_execute": (),
    "enclave_load_v1_execmod": (),
    # prot: of a mapping of the enclave; eaug: of a page that came by EAUG.
    "enclave_map": ("prot", "eaug"),
    "enclave_map_v3": ("prot", "eaug"),
    # SIGSTRUCT's file as a proxy for the enclave (Christopherson, May 2019). 24 May asks of it what
    # Linux asks of a file that is mapped. 30 May has hooks of its own; _file and _process: the
    # other possibilities that it names for an LSM. allow_write: a page of the range may be written.
    "sigstruct_mmap": (),
    "sigstruct_execmod": (),
    "enclave_create": (),
    "enclave_create_file": (),
    "enclave_create_process": (),
    "enclave_mprotect": ("prot", "allow_write"),
    "enclave_mprotect_file": ("prot", "allow_write"),
    "enclave_mprotect_process": ("prot", "allow_write"),
    # Those of Lutomirski's models of 12 June 2019, whose answers are flags: a question a flag.
    # Whether ``at.source`` may be code, (a) and (b) of the mail; then of the enclave, (c), (d), and
    # that it has code which was not measured.
    "enclave_load_fsm": (),
    "enclave_init_dirty": (),
    "enclave_init_wx": (),
    "enclave_init_unmeasured": (),
    # Lutomirski, 30 May 2019. enclave_load: the three things of which one is enough, each of
    # ``at.source``; or, "dynamic", what the hook says of the page without refusing it.
    "enclave_load_execute": (),
    "enclave_load_execmod": (),
    "enclave_load_execmem": (),
    "enclave_load_dynamic": (),
    "enclave_execmem": (),
    "enclave_init": (),
    # Those of Xing's RFC of June and July 2019, whose LSM keeps the origins of pages, taken apart
    # into what they ask: in v3 of ``at.source``, of the files that pages of a range came from
    # (origin: their numbers, changed: mapped writable since), of SIGSTRUCT's file, of the process;
    # in v1 as an mprotect of a VMA with prot would be.
    "enclave_load_file": (),
    "enclave_run_file": ("origin", "changed"),
    "enclave_launch": (),
    "enclave_execmod": (),
    "enclave_execanon": (),
    "enclave_load_source": ("prot",),
    "enclave_load_source_execmod": (),
    "enclave_launch_v1": (),
}
"""Each hook's arguments, all masks in the order R = 1, W = 2, X = 4."""


class Hooks(Protocol):
    """One module's text: a rule ``(k, at, r)`` for each hook that it has."""

    def file_open(self, k: Any, at: Any, r: Any) -> None:
        """An inode is opened."""

    def file_receive(self, k: Any, at: Any, r: Any) -> None:
        """A descriptor came from another process."""

    def mmap_file(self, k: Any, at: Any, r: Any) -> None:
        """A mapping is made, of a file or of none."""

    def file_mprotect(self, k: Any, at: Any, r: Any) -> None:
        """The protection of one VMA is changed."""


class Facts(Protocol):
    """What a module's rules ask of the one that evaluates them, beside permissions."""

    def mapped(self, at: Any) -> Any:
        """The object behind the mapping or descriptor, None for anonymous memory.

        It has ``private`` (S_PRIVATE, 0 or 1). For an mprotect it is the VMA's file: shared
        anonymous memory has one of its own, which is S_PRIVATE.
        """

    def source(self, at: Any) -> tuple[Any, Any]:
        """(the place, the object) of the file that ``at.source`` is a mapping of.

        Anonymous memory is S_PRIVATE here: in both cases nothing can be asked of a file.
        """

    def sigstruct(self, at: Any) -> tuple[Any, Any]:
        """The same of the file that SIGSTRUCT was in when it was taken; before, of none."""

    def origins(self, at: Any, origin: Value, changed: Value) -> Any:
        """(place, object, changed) of each file that pages came from, by ``page.origin``."""

    def from_other(self, at: Any, obj: Any) -> Value:
        """The condition that the file was opened under another label than the process has."""

    def noaudit(self) -> None:
        """A denial of what this hook asks is the answer to a question, and not logged."""

    def in_heap(self, at: Any) -> Value:
        """The condition that the VMA lies within brk()'s memory."""

    def in_stack(self, at: Any) -> Value:
        """The condition that the VMA holds the process's stack."""

    def modified(self, at: Any) -> Value:
        """The condition that the VMA has an anon_vma: private pages may have been written."""
