"""What SELinux asks at each hook: Linux 6.1 security/selinux/hooks.c, as rules.

A rule puts questions with ``k.av(at, target, perms)``: does the process hold ``perms``
(a mask of the constants below, 0: nothing is asked) on the target? A denial is EACCES.
Targets are PROCESS, PROCESS2 and OWN_ENCLAVE (itself), FD (the label that opened the file),
INODE (the file) and ENCLAVE (the file, as class enclave). The hooks of series that were never
merged stand beside Linux's, each with its mail.
``k`` also has the facts of `softsgx.lsm.hooks.Facts`.

checkreqprot is 0, as it has been since Linux 4.4's default: `prot`, not `reqprot`, is
what is checked.
"""

from __future__ import annotations

from errno import EACCES
from typing import Any

from softsgx.law.rule import Law, rule
from softsgx.law.values import Value, W, X, eq, has, ite, no

__all__ = [
    "ENCLAVE", "FD", "INODE", "NAMES", "OWN_ENCLAVE", "PROCESS", "PROCESS2", "SelinuxHooks",
]  # fmt: skip

PROCESS, PROCESS2, FD, INODE = "process", "process2", "fd", "inode"
ENCLAVE, OWN_ENCLAVE = "enclave", "own enclave"

# Permissions of the inode; the first three are R, W, X.
READ, WRITE, EXECUTE, MAP, OPEN, IOCTL, EXECMOD, CREATE, GETATTR, SETATTR, SGX_EXECUTE = (
    1 << i for i in range(11)
)
EXECMEM, EXECHEAP, EXECSTACK = 1, 2, 4
# Of class process2, in no shipped policy; the last two are the names of the RFC's v3 for the
# first two.
(
    SGX_MAPWX, SGX_EXECDIRTY, SGX_EXECANON, SGX_EXECUNMR, SGX_EXECMEM, SGX_EXECMOD,
    ENCLAVE_EXECANON,
) = (1 << i for i in range(7))  # fmt: skip
USE = 1
# Of class enclave, which no kernel has: Christopherson, 30 May 2019.
ENCLAVE_EXECUTE, ENCLAVE_EXECMOD = 1, 2

NAMES: dict[str, tuple[str, ...]] = {
    PROCESS: ("execmem", "execheap", "execstack"),
    PROCESS2: (
        "sgx_mapwx", "sgx_execdirty", "sgx_execanon", "sgx_execunmr", "sgx_execmem",
        "sgx_execmod", "enclave_execanon",
    ),
    FD: ("use",),
    INODE: (
        "read", "write", "execute", "map", "open", "ioctl", "execmod", "create", "getattr",
        "setattr", "sgx_execute",
    ),
    ENCLAVE: ("execute", "execmod"),
    OWN_ENCLAVE: ("execute", "execmod"),
}  # fmt: skip
"""The names of each target's permissions, from bit 0 on."""

MAP_SHARED = 1
_EMA = "[RFC PATCH v3 4/4] (7 July 2019) "
_12_JUNE = "Lutomirski, 12 June 2019: "
_FIOCLEX, _FIONCLEX, _FIONBIO, _FIOASYNC = 0x5451, 0x5450, 0x5421, 0x5452
# FIONREAD, FIBMAP, FIGETBSZ, FS_IOC_GETFLAGS, FS_IOC_GETVERSION.
_GETATTR = frozenset((0x541B, 1, 2, 0x80086601, 0x80087601))
# FS_IOC_SETFLAGS, FS_IOC_SETVERSION.
_SETATTR = frozenset((0x40086602, 0x40087602))


class SelinuxHooks(Law):
    """The hooks; the options are the policy's capabilities of the same names."""

    name = "selinux"

    def __init__(self, *, open_perms: bool = True, ioctl_skip_cloexec: bool = False) -> None:
        self.open_perms, self.ioctl_skip_cloexec = open_perms, ioctl_skip_cloexec

    @rule("Linux selinux_inode_permission(), then selinux_file_open()")
    def file_open(self, k: Any, at: Any, r: Any) -> None:
        """Read and write as the mode says, then once more with ``open``; never execute.

        O_APPEND is taken for write.
        """
        obj = k.mapped(at)
        # Access mode 3 is looked up for both and then gives neither.
        self.inode_has_perm(k, at, obj, r.fmode if r.fmode else READ | WRITE)
        av = r.fmode if r.fmode else IOCTL
        self.inode_has_perm(k, at, obj, av | OPEN if self.open_perms else av)

    @rule("Linux selinux_file_receive()")
    def file_receive(self, k: Any, at: Any, r: Any) -> None:
        """The descriptor, and the mode that it was opened with, once more."""
        obj = k.mapped(at)
        self.file_has_perm(k, at, obj, obj.fmode if obj.fmode else IOCTL)

    @rule("Linux selinux_file_ioctl()")
    def file_ioctl(self, k: Any, at: Any, r: Any) -> None:
        """Ioctl with the command's extended permission; a few commands ask something else."""
        obj = k.mapped(at)
        if r.cmd in _GETATTR:
            self.file_has_perm(k, at, obj, GETATTR)
        elif r.cmd in _SETATTR:
            self.file_has_perm(k, at, obj, SETATTR)
        elif r.cmd in (_FIONBIO, _FIOASYNC):
            self.file_has_perm(k, at, obj, 0)
        elif not (self.ioctl_skip_cloexec and r.cmd in (_FIOCLEX, _FIONCLEX)):
            k.av(at, FD, ite(k.from_other(at, obj), USE, 0))
            k.av(at, INODE, ite(obj.private, 0, IOCTL), cmd=r.cmd)

    @rule("Linux selinux_mmap_file()")
    def mmap_file(self, k: Any, at: Any, r: Any) -> None:
        """Map on the inode, without the descriptor; then as `map_prot_check`.

        MAP_SHARED_VALIDATE counts as private here.
        """
        obj = k.mapped(at)
        if obj is not None:
            self.inode_has_perm(k, at, obj, MAP)
        self.map_prot_check(k, at, obj, r.prot, int(r.map_type == MAP_SHARED))

    @rule("Linux selinux_file_mprotect()")
    def file_mprotect(self, k: Any, at: Any, r: Any) -> None:
        """What becomes executable: heap, stack, modified file; then as `map_prot_check`."""
        obj = k.mapped(at)
        becomes_x = has(r.prot, X) & no(has(at.vma.prot, X))
        heap = becomes_x & k.in_heap(at)
        rest = becomes_x & no(heap)
        if obj is None:
            k.av(at, PROCESS, ite(heap, EXECHEAP, ite(rest & k.in_stack(at), EXECSTACK, 0)))
        else:
            k.av(at, PROCESS, ite(heap, EXECHEAP, 0))
            modified = rest & k.modified(at)
            self.file_has_perm(k, at, obj, EXECMOD, when=modified)
        self.map_prot_check(k, at, obj, r.prot, at.vma.shared)

    @rule("Linux selinux_inode_init_security_anon()")
    def anon_inode_init(self, k: Any, at: Any, r: Any) -> None:
        """Create of an anonymous inode, labelled by a type transition on its name."""
        k.label_anon_inode(at, r.name)
        self.inode_has_perm(k, at, k.mapped(at), CREATE)

    @rule("Linux selinux_file_mprotect(): file_has_perm(cred, vma->vm_file, FILE__EXECMOD)")
    def file_execmod(self, k: Any, at: Any, r: Any) -> None:
        """Modified code of the file would be executed."""
        self.file_has_perm(k, at, k.mapped(at), EXECMOD)

    # -- "security: x86/sgx: SGX vs. LSM", June 2019 -------------------------------------

    @rule("[RFC PATCH v4 10/12] (19 June 2019) selinux_enclave_load()")
    def enclave_load(self, k: Any, at: Any, r: Any) -> None:
        """EADD of what may be executed: written, too, unmeasured, from anonymous memory.

        "Only executable enclave pages are restricted in any way."
        """
        _, obj = k.source(at)
        self.of_load(k, at, r, SGX_EXECDIRTY, at.source.anonymous | obj.private)

    @rule('[RFC PATCH v4 00/12]: since v3 "Fix an inverted check on IS_PRIVATE file check"')
    def enclave_load_v3(self, k: Any, at: Any, r: Any) -> None:
        """As in v4, with another name, and files and S_PRIVATE ones taken for each other."""
        _, obj = k.source(at)
        self.of_load(k, at, r, SGX_EXECMOD, at.source.anonymous | no(obj.private))

    @rule("[RFC PATCH v4 10/12] selinux_enclave_load()")
    def of_load(self, k: Any, at: Any, r: Any, dirty: int, no_file: Value) -> None:
        """SGX_EXECDIRTY, SGX_EXECUNMR, then SGX_EXECANON or SGX_EXECUTE of the file."""
        x = has(r.prot, X)
        k.av(at, PROCESS2, ite(x & has(r.prot, W), dirty, 0))
        k.av(at, PROCESS2, ite(x & no(r.measured), SGX_EXECUNMR, 0))
        anonymous = no_file | at.source.modified
        k.av(at, PROCESS2, ite(x & anonymous, SGX_EXECANON, 0))
        place, obj = k.source(at)
        self.file_has_perm(k, place, obj, SGX_EXECUTE, when=x & no(anonymous))

    @rule("[RFC PATCH v2 5/5] (5 June 2019) selinux_enclave_load()")
    def enclave_load_v2(self, k: Any, at: Any, r: Any) -> None:
        """EXECUTE, EXECMOD or EXECMEM "in order of increasing privilege", as its comment says.

        The mail's condition has a parenthesis in the wrong place and compiles to nothing that
        the comment says; what is followed is the comment.
        """
        source = at.source
        w = has(r.prot, W)
        asked = has(r.prot, X) & (no(has(source.prot, X)) | w)
        place, obj = k.source(at)
        of_file = no(source.anonymous) & no(obj.private) & (source.shared | no(w))
        plain = no(source.modified) & no(w)
        av = ite(plain, EXECUTE, EXECMOD)
        self.file_has_perm(k, place, obj, av, when=asked & of_file)
        k.av(at, PROCESS, ite(asked & no(of_file), EXECMEM, 0))

    @rule("[RFC PATCH 9/9] (31 May 2019) selinux_enclave_load(): a source that is not executable")
    def enclave_load_v1_execute(self, k: Any, at: Any, r: Any) -> None:
        """EXECUTE of the file that a page comes from, or EXECMEM."""
        self.of_source(k, at, EXECUTE, no(has(at.source.prot, X)))

    @rule('[RFC PATCH 9/9] selinux_enclave_load(): "RW->RX or W+X requires EXECMOD … or EXECMEM"')
    def enclave_load_v1_execmod(self, k: Any, at: Any, r: Any) -> None:
        """EXECMOD of the file that a page comes from, or EXECMEM."""
        self.of_source(k, at, EXECMOD, 1)

    @rule('[RFC PATCH 9/9]: "delegate to the source of the enclave"')
    def of_source(self, k: Any, at: Any, av: int, when: Value) -> None:
        """A permission of the file behind the source; EXECMEM where there is none."""
        place, obj = k.source(at)
        of_file = no(at.source.anonymous) & no(obj.private)
        self.file_has_perm(k, place, obj, av, when=when & of_file)
        k.av(at, PROCESS, ite(when & no(of_file), EXECMEM, 0))

    @rule("[RFC PATCH v4 08/12] and 12/12 (19 June 2019) selinux_enclave_map()")
    def enclave_map(self, k: Any, at: Any, r: Any) -> None:
        """SGX_MAPWX for W and X at once; SGX_EXECDIRTY for X of a page of EAUG."""
        self.of_map(k, at, r, SGX_MAPWX, SGX_EXECDIRTY)

    @rule("[RFC PATCH v4 00/12]: v3's SGX__EXECMEM and SGX__EXECMOD")
    def enclave_map_v3(self, k: Any, at: Any, r: Any) -> None:
        """As in v4, with other names."""
        self.of_map(k, at, r, SGX_EXECMEM, SGX_EXECMOD)

    @rule("[RFC PATCH v4 12/12] selinux_enclave_map()")
    def of_map(self, k: Any, at: Any, r: Any, mapwx: int, dirty: int) -> None:
        """Of what is mapped, "not the maximal protection bits"."""
        x, w = has(r.prot, X), has(r.prot, W)
        k.av(at, PROCESS2, ite(x & w, mapwx, ite(x & r.eaug, dirty, 0)))

    # -- SIGSTRUCT as a proxy for the enclave, May 2019 -------------------------------------

    @rule('Christopherson, 24 May 2019: "Require FILE__READ+FILE__EXECUTE on .sigstruct"; '
          "Linux selinux_mmap_file()")  # fmt: skip
    def sigstruct_mmap(self, k: Any, at: Any, r: Any) -> None:
        """As a private mapping R and X of SIGSTRUCT's file: EXECMEM where it is in none."""
        place, obj = k.sigstruct(at)
        self.inode_has_perm(k, place, obj, MAP)
        k.av(at, PROCESS, ite(obj.private, EXECMEM, 0))
        self.file_has_perm(k, place, obj, READ | EXECUTE)

    @rule('Christopherson, 24 May 2019: "Require FILE__EXECMOD on the .sigstruct"')
    def sigstruct_execmod(self, k: Any, at: Any, r: Any) -> None:
        """EXECMOD of SIGSTRUCT's file; EXECMEM where it is in none."""
        self.of_sigstruct_file(k, at, EXECMOD)

    @rule('Christopherson, 30 May 2019: "require them on the sigstruct, i.e. force sigstruct to '
          'reside in filesystem"')  # fmt: skip
    def of_sigstruct(self, k: Any, at: Any, perms: Value) -> None:
        """ENCLAVE__EXECUTE and ENCLAVE__EXECMOD on the file's label; in no file it is a denial."""
        place, obj = k.sigstruct(at)
        k.need(EACCES, eq(perms, 0) | no(obj.private), "SIGSTRUCT lies in a file")
        self.of_enclave(k, place, obj, perms)

    @rule('Christopherson, 30 May 2019: "sigstruct is the proxy for enclave"')
    def of_enclave(self, k: Any, at: Any, obj: Any, perms: Value) -> None:
        """The permissions of class enclave; nothing is asked of what is in no file."""
        k.av(at, FD, ite(no(eq(perms, 0)) & k.from_other(at, obj), USE, 0))
        k.av(at, ENCLAVE, ite(obj.private, 0, perms))

    @rule('Christopherson, 30 May 2019: "Intention is that EXECMOD is required if PROT_EXEC and '
          'ALLOW_WRITE"')  # fmt: skip
    def enclave_mprotect(self, k: Any, at: Any, r: Any) -> None:
        """X takes ENCLAVE__EXECUTE, and ENCLAVE__EXECMOD where the page may be written."""
        self.of_sigstruct(k, at, self.of_code(r, ENCLAVE_EXECUTE, ENCLAVE_EXECMOD))

    @rule('Christopherson, 30 May 2019: "Reuse FILE__EXECUTE and FILE__EXECMOD on sigstruct"')
    def enclave_mprotect_file(self, k: Any, at: Any, r: Any) -> None:
        """The same with the file's permissions; EXECMEM where there is no file."""
        self.of_sigstruct_file(k, at, self.of_code(r, EXECUTE, EXECMOD))

    @rule('Christopherson, 30 May 2019: "require them on the process. Does not require sigstruct '
          'to be backed by file, but cannot achieve per-enclave granularity"')  # fmt: skip
    def enclave_mprotect_process(self, k: Any, at: Any, r: Any) -> None:
        """The same on the process itself."""
        k.av(at, OWN_ENCLAVE, self.of_code(r, ENCLAVE_EXECUTE, ENCLAVE_EXECMOD))

    def of_code(self, r: Any, execute: int, execmod: int) -> Value:
        """What X takes: a mask."""
        return ite(has(r.prot, X), ite(r.allow_write, execute | execmod, execute), 0)

    @rule('Christopherson, 30 May 2019: security_enclave_create(), "whether or not the enclave is '
          'allowed to execute before allocating EPC"')  # fmt: skip
    def enclave_create(self, k: Any, at: Any, r: Any) -> None:
        """ENCLAVE__EXECUTE on SIGSTRUCT's file, before there is an enclave."""
        self.of_sigstruct(k, at, ENCLAVE_EXECUTE)

    @rule('Christopherson, 30 May 2019: "Reuse FILE__EXECUTE and FILE__EXECMOD on sigstruct"')
    def enclave_create_file(self, k: Any, at: Any, r: Any) -> None:
        """FILE__EXECUTE; EXECMEM where there is no file."""
        self.of_sigstruct_file(k, at, EXECUTE)

    def of_sigstruct_file(self, k: Any, at: Any, av: Value) -> None:
        """Permissions of SIGSTRUCT's file; EXECMEM for any of them where it is in none."""
        place, obj = k.sigstruct(at)
        k.av(at, PROCESS, ite(no(eq(av, 0)) & obj.private, EXECMEM, 0))
        self.file_has_perm(k, place, obj, av)

    @rule('Christopherson, 30 May 2019: "require them on the process"')
    def enclave_create_process(self, k: Any, at: Any, r: Any) -> None:
        """ENCLAVE__EXECUTE on the process itself."""
        k.av(at, OWN_ENCLAVE, ENCLAVE_EXECUTE)

    @rule(f'{_12_JUNE}"EXECUTE for (a) … (b) seems to also map to EXECMOD or EXECMEM"')
    def enclave_load_fsm(self, k: Any, at: Any, r: Any) -> None:
        """(a) EXECUTE of the file that a page comes from; (b) EXECMOD with it where its pages were
        written privately, EXECMEM where there is no file.
        """
        self.of_source(k, at, EXECUTE | ite(at.source.modified, EXECMOD, 0), 1)

    @rule(f'{_12_JUNE}"EXECMOD for (c)"; the hook\'s argument is the VMA of SIGSTRUCT')
    def enclave_init_dirty(self, k: Any, at: Any, r: Any) -> None:
        """(c) EXECMOD of the file that SIGSTRUCT is in; EXECMEM where there is none."""
        place, obj = k.sigstruct(at)
        self.file_has_perm(k, place, obj, EXECMOD, when=no(obj.private))
        k.av(at, PROCESS, ite(obj.private, EXECMEM, 0))

    @rule(f'{_12_JUNE}"EXECMEM for (d)"')
    def enclave_init_wx(self, k: Any, at: Any, r: Any) -> None:
        """(d) EXECMEM."""
        k.av(at, PROCESS, EXECMEM)

    @rule(
        f'{_12_JUNE}"another permission "execute code supplied from outside the '
        'enclave that was not measured""; its name is of [RFC PATCH v4 10/12]'
    )
    def enclave_init_unmeasured(self, k: Any, at: Any, r: Any) -> None:
        """SGX_EXECUNMR."""
        k.av(at, PROCESS2, SGX_EXECUNMR)

    # -- execute_intent, May 2019 --------------------------------------------------------

    @rule('Lutomirski, 30 May 2019: "if execute_intent==true and the caller has neither EXECUTE …"')
    def enclave_load_execute(self, k: Any, at: Any, r: Any) -> None:
        """EXECUTE of the file that a page comes from; without a file it is denied."""
        self.of_loaded(k, at, EXECUTE)

    @rule('Lutomirski, 30 May 2019: "… EXECMOD, …"')
    def enclave_load_execmod(self, k: Any, at: Any, r: Any) -> None:
        """EXECMOD of that file."""
        self.of_loaded(k, at, EXECMOD)

    @rule('Lutomirski, 30 May 2019: "… nor EXECMEM"')
    def enclave_load_execmem(self, k: Any, at: Any, r: Any) -> None:
        """EXECMEM, from wherever the page comes."""
        k.av(at, PROCESS, EXECMEM)

    @rule('Lutomirski, 30 May 2019: "The implementation … may set *execute_intent to false"; '
          '"we can only really audit the lack of EXECMOD or EXECMEM"')  # fmt: skip
    def enclave_load_dynamic(self, k: Any, at: Any, r: Any) -> None:
        """EXECUTE of the file, EXECMOD where its pages were written privately; not logged."""
        k.noaudit()
        self.of_loaded(k, at, ite(at.source.modified, EXECMOD, EXECUTE))

    @rule('Lutomirski, 30 May 2019: "the file backing the vma from which the data is loaded"')
    def of_loaded(self, k: Any, at: Any, av: Value) -> None:
        """A permission of the file behind the source, which there has to be."""
        place, obj = k.source(at)
        k.need(EACCES, no(at.source.anonymous | obj.private), "the page comes from a file")
        self.file_has_perm(k, place, obj, av)

    @rule('Lutomirski, 30 May 2019: "will require EXECMEM to create WX or RWX mappings"')
    def enclave_execmem(self, k: Any, at: Any, r: Any) -> None:
        """EXECMEM on the process itself."""
        k.av(at, PROCESS, EXECMEM)

    @rule("Lutomirski, 30 May 2019: security_enclave_init(sigstruct, source); what it asks no mail"
          " says: EXECUTE of SIGSTRUCT's file, as Christopherson's 24 May")  # fmt: skip
    def enclave_init(self, k: Any, at: Any, r: Any) -> None:
        """EXECUTE of SIGSTRUCT's file; EXECMEM where it is in none."""
        self.enclave_create_file(k, at, r)

    # -- Xing's RFC of June and July 2019 --------------------------------------------------

    @rule(f"{_EMA}enclave_load_prot_check(): EADD from file")
    def enclave_load_file(self, k: Any, at: Any, r: Any) -> None:
        """EXECUTE of the file that a page comes from, EXECMOD if it was written privately."""
        place, obj = k.source(at)
        self.file_has_perm(k, place, obj, EXECUTE | ite(at.source.modified, EXECMOD, 0))

    @rule(f"{_EMA}ema__chk_X_cb(): EADD'ed pages from files")
    def enclave_run_file(self, k: Any, at: Any, r: Any) -> None:
        """EXECUTE of the files that pages came from, EXECMOD of those whose pages were changed."""
        for place, obj, changed in k.origins(at, r.origin, r.changed):
            self.file_has_perm(k, place, obj, EXECUTE | ite(changed, EXECMOD, 0))

    @rule(f"{_EMA}selinux_enclave_init()")
    def enclave_launch(self, k: Any, at: Any, r: Any) -> None:
        """EXECUTE of SIGSTRUCT's file."""
        place, obj = k.sigstruct(at)
        self.file_has_perm(k, place, obj, EXECUTE)

    @rule(f"{_EMA}ema__chk_X_cb(): EAUG'ed pages; v1: selinux_enclave_init()")
    def enclave_execmod(self, k: Any, at: Any, r: Any) -> None:
        """EXECMOD of SIGSTRUCT's file."""
        place, obj = k.sigstruct(at)
        self.file_has_perm(k, place, obj, EXECMOD)

    @rule(f"{_EMA}PROCESS2__ENCLAVE_EXECANON")
    def enclave_execanon(self, k: Any, at: Any, r: Any) -> None:
        """ENCLAVE_EXECANON."""
        k.av(at, PROCESS2, ENCLAVE_EXECANON)

    @rule("[RFC PATCH v1 2/3] (10 June 2019) selinux_enclave_load(): selinux_file_mprotect()")
    def enclave_load_source(self, k: Any, at: Any, r: Any) -> None:
        """What mprotect of the source VMA would be asked, but for heap and stack."""
        place, obj = k.source(at)
        self.of_vma(k, at, place, obj, r.prot)

    @rule("[RFC PATCH v1 2/3] (10 June 2019) selinux_enclave_load(): FILE__EXECMOD")
    def enclave_load_source_execmod(self, k: Any, at: Any, r: Any) -> None:
        """EXECMOD of the file that a page comes from."""
        place, obj = k.source(at)
        self.file_has_perm(k, place, obj, EXECMOD)

    @rule("[RFC PATCH v1 2/3] (10 June 2019) selinux_enclave_init(): selinux_file_mprotect()")
    def enclave_launch_v1(self, k: Any, at: Any, r: Any) -> None:
        """What mprotect PROT_EXEC of SIGSTRUCT's VMA would be asked."""
        place, obj = k.sigstruct(at)
        self.of_vma(k, at, place, obj, X)

    @rule("Linux selinux_file_mprotect(), of a VMA that is no enclave's")
    def of_vma(self, k: Any, at: Any, place: Any, obj: Any, prot: Value) -> None:
        """EXECMOD of what was written privately and becomes X; then as `map_prot_check`."""
        becomes_x = has(prot, X) & no(has(at.source.prot, X))
        self.file_has_perm(k, place, obj, EXECMOD, when=becomes_x & at.source.modified)
        self.map_prot_check(k, place, obj, prot, at.source.shared)

    # -- what the hooks have in common -------------------------------------------------

    @rule("Linux file_map_prot_check()")
    def map_prot_check(self, k: Any, at: Any, obj: Any, prot: Value, shared: Value) -> None:
        """Execmem for code without a file behind it; then the file, by what is mapped.

        Reading is asked even for PROT_NONE; writing only where it reaches the file.
        """
        x, w = has(prot, X), has(prot, W)
        own = 1 if obj is None else obj.private
        k.av(at, PROCESS, ite(x & (own | (no(shared) & w)), EXECMEM, 0))
        if obj is not None:
            self.file_has_perm(
                k, at, obj, READ | ite(shared & w, WRITE, 0) | ite(x, EXECUTE, 0)
            )  # fmt: skip

    @rule("Linux file_has_perm()")
    def file_has_perm(self, k: Any, at: Any, obj: Any, av: Value, when: Value = 1) -> None:
        """Use of the descriptor, where another label opened it, then the inode."""
        k.av(at, FD, ite(when & k.from_other(at, obj), USE, 0))
        self.inode_has_perm(k, at, obj, ite(when, av, 0))

    @rule("Linux inode_has_perm()")
    def inode_has_perm(self, k: Any, at: Any, obj: Any, av: Value) -> None:
        """The inode; nothing is asked of one that is S_PRIVATE."""
        k.av(at, INODE, ite(obj.private, 0, av))
