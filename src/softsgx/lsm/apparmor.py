"""What AppArmor asks at each hook: Linux 6.1 security/apparmor/{lsm,file}.c, as rules.

A rule puts questions with ``k.path(at, obj, operation, mask)``: does the process's
profile allow ``mask`` (R, W and M below; 0: nothing is asked) on the file's path? A
denial is EACCES. There is no hook for ioctls, and nothing like execmem or execmod: a
mapping that is written and executed is told by w and m alone.
"""

from __future__ import annotations

from errno import EACCES
from typing import Any

from softsgx.law.rule import Law, rule
from softsgx.law.values import R, Value, W, X, has, ite, minus, no, subset

__all__ = ["AppArmorHooks", "M"]

M = 4
"""m: mapped executable. R and W are r and w; x (executing a program) is not asked here."""

MAP_PRIVATE = 2


class AppArmorHooks(Law):
    """The hooks that AppArmor has; the others are answered without a look."""

    name = "apparmor"

    @rule("Linux apparmor_file_open()")
    def file_open(self, k: Any, at: Any, r: Any) -> None:
        """R and w as the mode says; remembered on the file, so that passing it on is cheap."""
        obj = k.mapped(at)
        k.path(at, obj, "open", ite(obj.unmediated, 0, r.fmode))
        k.remember(at, obj, r.fmode)

    @rule("Linux apparmor_file_receive()")
    def file_receive(self, k: Any, at: Any, r: Any) -> None:
        """The mode that the descriptor was opened with."""
        obj = k.mapped(at)
        self.file_perm(k, at, obj, "file_receive", obj.fmode)

    @rule("Linux apparmor_mmap_file()")
    def mmap_file(self, k: Any, at: Any, r: Any) -> None:
        """``flags & MAP_PRIVATE`` is tested, a bit that MAP_SHARED_VALIDATE has too."""
        private = int(bool(r.map_type & MAP_PRIVATE))
        self.common_mmap(k, at, k.mapped(at), "file_mmap", r.prot, private)

    @rule("Linux apparmor_file_mprotect()")
    def file_mprotect(self, k: Any, at: Any, r: Any) -> None:
        """As mmap, of the VMA's file."""
        self.common_mmap(k, at, k.mapped(at), "file_mprotect", r.prot, no(at.vma.shared))

    @rule("Linux common_mmap()")
    def common_mmap(
        self, k: Any, at: Any, obj: Any, op: str, prot: Value, private: Value
    ) -> None:  # fmt: skip
        """R for reading, w for writing what reaches the file, m for executing."""
        if obj is not None:
            mask = ite(private, minus(prot & (R | W), W), prot & (R | W))
            self.file_perm(k, at, obj, op, mask | ite(has(prot, X), M, 0))

    @rule("[RFC PATCH v4 11/12] (19 June 2019) apparmor_enclave_load()")
    def enclave_load(self, k: Any, at: Any, r: Any) -> None:
        """M of the file that an executable page comes from.

        Of anonymous memory nothing is asked: the mail passes vm_file on without a look, which is
        NULL there.
        """
        place, obj = k.source(at)
        asked = has(r.prot, X) & no(at.source.anonymous)
        self.file_perm(k, place, obj, "enclave_load", ite(asked, M, 0))

    @rule('[RFC PATCH v4 00/12]: v3 added "a (very minimal) AppArmor patch"')
    def enclave_load_v3(self, k: Any, at: Any, r: Any) -> None:
        """As in v4."""
        self.enclave_load(k, at, r)

    @rule("Linux apparmor_mmap_file(), of SIGSTRUCT's file: Christopherson, 24 May 2019")
    def sigstruct_mmap(self, k: Any, at: Any, r: Any) -> None:
        """R and m of SIGSTRUCT's file, as for a private mapping R and X."""
        place, obj = k.sigstruct(at)
        self.file_perm(k, place, obj, "file_mmap", ite(obj.private, 0, R | M))

    @rule("[RFC PATCH v4 11/12] apparmor_enclave_load(): no mail has AppArmor's text for this hook")
    def enclave_mprotect(self, k: Any, at: Any, r: Any) -> None:
        """M of SIGSTRUCT's file for code; of EXECMOD AppArmor has nothing."""
        self.of_sigstruct(k, at, "enclave_mprotect", has(r.prot, X))

    @rule("[RFC PATCH v4 11/12] apparmor_enclave_load(): no mail has AppArmor's text for this hook")
    def enclave_create(self, k: Any, at: Any, r: Any) -> None:
        """M of SIGSTRUCT's file."""
        self.of_sigstruct(k, at, "enclave_create", 1)

    # AppArmor knows one kind of permission: those of a file's path.
    enclave_mprotect_file = enclave_mprotect_process = enclave_mprotect
    enclave_create_file = enclave_create_process = enclave_create

    @rule("[RFC PATCH v4 11/12] apparmor_enclave_load(): no mail has AppArmor's text for this hook")
    def enclave_load_execute(self, k: Any, at: Any, r: Any) -> None:
        """M of the file that a page comes from; nothing of anonymous memory."""
        self.of_loaded(k, at, "enclave_load")

    @rule("Lutomirski, 30 May 2019: AppArmor has no EXECMOD")
    def enclave_load_execmod(self, k: Any, at: Any, r: Any) -> None:
        """Nobody holds what is not there."""
        k.need(EACCES, 0, "AppArmor has no EXECMOD")

    @rule("Lutomirski, 30 May 2019: AppArmor has no EXECMEM")
    def enclave_load_execmem(self, k: Any, at: Any, r: Any) -> None:
        """Nobody holds what is not there."""
        k.need(EACCES, 0, "AppArmor has no EXECMEM")

    @rule("[RFC PATCH v4 11/12] apparmor_enclave_load(): no mail has AppArmor's text for this hook")
    def enclave_load_dynamic(self, k: Any, at: Any, r: Any) -> None:
        """The same question, not logged."""
        k.noaudit()
        self.of_loaded(k, at, "enclave_load")

    @rule("[RFC PATCH v4 11/12] apparmor_enclave_load(): no mail has AppArmor's text for this hook")
    def enclave_init(self, k: Any, at: Any, r: Any) -> None:
        """M of SIGSTRUCT's file."""
        self.of_sigstruct(k, at, "enclave_init", 1)

    @rule("[RFC PATCH v4 11/12] apparmor_enclave_load()")
    def of_loaded(self, k: Any, at: Any, op: str) -> None:
        """M of the file behind the source."""
        place, obj = k.source(at)
        self.file_perm(k, place, obj, op, ite(at.source.anonymous, 0, M))

    @rule("Christopherson, 30 May 2019: the proxy's file")
    def of_sigstruct(self, k: Any, at: Any, op: str, when: Value) -> None:
        """Of a SIGSTRUCT in no file nothing is asked."""
        place, obj = k.sigstruct(at)
        self.file_perm(k, place, obj, op, ite(when & no(obj.private), M, 0))

    @rule('Lutomirski, 12 June 2019: (a) "execute code from a particular source, e.g. a file"')
    def enclave_load_fsm(self, k: Any, at: Any, r: Any) -> None:
        """M of the file that the page comes from, if it is to be clean code; of (b), (c) and (d)
        AppArmor knows nothing, so they are allowed.
        """
        place, obj = k.source(at)
        self.file_perm(k, place, obj, "enclave_load", ite(at.source.anonymous, 0, M))

    @rule("[RFC PATCH v3 3/4] (7 July 2019): for other modules; as v4 11/12 of 19 June has it")
    def enclave_load_file(self, k: Any, at: Any, r: Any) -> None:
        """M of the file that an executable page comes from."""
        place, obj = k.source(at)
        self.file_perm(k, place, obj, "enclave_load", ite(obj.private, 0, M))

    @rule("[RFC PATCH v3 3/4] (7 July 2019): for other modules; as of ordinary files")
    def enclave_run_file(self, k: Any, at: Any, r: Any) -> None:
        """M of the files that pages came from."""
        for place, obj, _ in k.origins(at, r.origin, r.changed):
            self.file_perm(k, place, obj, "file_mprotect", M)

    @rule("[RFC PATCH v3 3/4] (7 July 2019): for other modules; as of ordinary files")
    def enclave_launch(self, k: Any, at: Any, r: Any) -> None:
        """M of SIGSTRUCT's file."""
        place, obj = k.sigstruct(at)
        self.file_perm(k, place, obj, "enclave_init", ite(obj.private, 0, M))

    @rule("Linux aa_file_perm(), __file_path_perm()")
    def file_perm(self, k: Any, at: Any, obj: Any, op: str, mask: Value) -> None:
        """Ask only what is not remembered, or was not asked of this profile.

        An unconfined process may do all, and so may who uses a file that an unconfined one
        opened: that is delegation.
        """
        looked_at = no(obj.unmediated) & no(k.unconfined(at)) & no(k.delegated(at, obj))
        more = no(subset(mask, obj.allow))
        asked = looked_at & (more | no(k.checked(at, obj)))
        k.path(at, obj, op, ite(asked, mask, 0), others=more)
        k.remember(at, obj, ite(asked, mask, 0))
