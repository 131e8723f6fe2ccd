"""Audit lines as the kernel writes them, so that the usual tools read them.

audit2allow, sepolgen, aa-logprof and people know these lines; a format of our own would
need tools of its own. The order of the fields is that of Linux 6.1:
security/lsm_audit.c, dump_common_audit_data(), security/selinux/avc.c,
avc_audit_pre_callback() and avc_audit_post_callback(), security/apparmor/audit.c,
audit_pre(), and file.c, file_audit_cb(). ``type=AVC msg=audit(…)`` in front is what
auditd makes of the kernel's ``type=1400 audit(…)``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["apparmor_line", "audit_head", "avc_line", "untrusted"]

_FILE_PERMS = (
    "ioctl read write create getattr setattr lock relabelfrom relabelto append map unlink "
    "link rename execute quotaon mounton audit_access open execmod watch watch_mount "
    "watch_sb watch_with_perm watch_reads execute_no_trans entrypoint add_name remove_name "
    "reparent search rmdir"
)
_PROCESS_PERMS = (
    "fork transition sigchld sigkill sigstop signull signal ptrace getsched setsched "
    "getsession getpgid setpgid getcap setcap share getattr setexec setfscreate noatsecure "
    "siginh setrlimit rlimitinh dyntransition setcurrent execmem execstack execheap "
    "setkeycreate setsockcreate getrlimit"
)
# The kernel names permissions in the order of its own bits: security/selinux/include/
# classmap.h. Whatever is not in it comes last, sorted.
_ORDER = {
    tclass: {name: index for index, name in enumerate(names.split())}
    for tclass, names in (
        ("process", _PROCESS_PERMS),
        *((f"{kind}file", _FILE_PERMS) for kind in ("", "chr_", "blk_", "lnk_", "fifo_", "sock_")),
        ("dir", _FILE_PERMS),
        ("anon_inode", _FILE_PERMS),
    )
}


def untrusted(text: str | bytes) -> str:
    """Quote a string that a program chose: bare upper-case hex when it has odd bytes.

    Odd are the double quote, everything up to the space and everything from DEL on.
    Source: Linux 6.1 kernel/audit.c, audit_log_n_untrustedstring().
    """
    raw = os.fsencode(text)
    if any(byte == 0x22 or byte < 0x21 or byte > 0x7E for byte in raw):
        return raw.hex().upper()
    return '"' + raw.decode("ascii") + '"'


def audit_head(milliseconds: int, serial: int) -> str:
    """Return ``type=AVC msg=audit(T.mmm:N):`` for a time in milliseconds since 1970."""
    return f"type=AVC msg=audit({milliseconds // 1000}.{milliseconds % 1000:03}:{serial}):"


def _object(
    path: str | bytes | None, name: str | bytes | None, dev: str | None, ino: int | None
) -> str:
    text = ""
    if path is not None:
        text += f" path={untrusted(path)}"
    if name is not None:
        text += f" name={untrusted(name)}"
    if dev is not None:
        text += f" dev={untrusted(dev)}"
    if ino is not None:
        text += f" ino={ino}"
    return text


def avc_line(
    *,
    milliseconds: int,
    serial: int,
    perms: Iterable[str],
    pid: int,
    comm: str | bytes,
    scontext: str,
    tcontext: str,
    tclass: str,
    denied: bool = True,
    permissive: bool = False,
    path: str | bytes | None = None,
    name: str | bytes | None = None,
    dev: str | None = None,
    ino: int | None = None,
    ioctlcmd: int | None = None,
    anonclass: str | None = None,
) -> str:
    """Return SELinux's audit line of one decision, without a newline.

    `path` is for a file that is open (mmap, mprotect, ioctl), `name` (the last component)
    for one that is being opened; a question about the process itself has neither.
    `anonclass` is for the creation of an anonymous inode (``[sgx_segment]``). `ioctlcmd`
    is cut to its low 16 bits. `comm` is cut to the kernel's 15 bytes.
    """
    order = _ORDER.get(tclass, {})
    sorted_perms = sorted(perms, key=lambda perm: (order.get(perm, len(order)), perm))
    verdict = "denied" if denied else "granted"
    line = (
        f"{audit_head(milliseconds, serial)} avc:  {verdict}  {{ {' '.join(sorted_perms)} }} for "
        f" pid={pid} comm={untrusted(os.fsencode(comm)[:15])}{_object(path, name, dev, ino)}"
    )
    if ioctlcmd is not None:
        line += f" ioctlcmd=0x{ioctlcmd & 0xFFFF:x}"
    if anonclass is not None:
        line += f" anonclass={anonclass}"
    line += f" scontext={scontext} tcontext={tcontext} tclass={tclass}"
    if denied:
        line += f" permissive={int(permissive)}"
    return line


def apparmor_line(
    *,
    milliseconds: int,
    serial: int,
    operation: str,
    profile: str,
    name: str | bytes,
    pid: int,
    comm: str | bytes,
    requested: str,
    denied: str,
    fsuid: int,
    ouid: int,
    verdict: str = "DENIED",
    target: str = "",
) -> str:
    """Return AppArmor's audit line of one decision about a file, without a newline.

    Or about another profile (``target``), which is named and has no masks.

    `operation` is open, file_mmap, file_mprotect, file_perm, file_receive or exec;
    `requested` and `denied` are letters in the kernel's order (``wrm``); `verdict` is
    DENIED, ALLOWED (complain mode), AUDIT or KILLED.
    """
    line = (
        f'{audit_head(milliseconds, serial)} apparmor="{verdict}" operation="{operation}" '
        f"profile={untrusted(profile)} name={untrusted(name)} pid={pid} "
        f"comm={untrusted(os.fsencode(comm)[:15])}"
    )
    if target:
        return f"{line} target={untrusted(target)}"
    line += f' requested_mask="{requested}"'
    if denied:
        line += f' denied_mask="{denied}"'
    return f"{line} fsuid={fsuid} ouid={ouid}"
