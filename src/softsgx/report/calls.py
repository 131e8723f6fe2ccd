"""docs/syscalls.md: what an enclave answers to every system call, from the table of them all."""

from __future__ import annotations

from errno import errorcode

from softsgx.uapi.syscalls import SYSCALLS, Answer, Syscall

__all__ = ["page"]

_HEAD = """\
# Every system call

What the device answers to each system call of x86-64, and which function of the kernel's says
so. This page, the seccomp filters, the dispatch and the tests are made of one table
(`softsgx/uapi/syscalls.py`).

The device's file is a character device with the operations of `sgx_encl_fops` (open, release,
ioctl, mmap, get_unmapped_area); what the driver lacks, the VFS answers. An enclave's VMA is one
with VM_PFNMAP, VM_IO, VM_DONTEXPAND and VM_DONTDUMP.

- *native*: the call never stops. What stands in the device's place answers alike: a descriptor of
  the device is really an empty file of memfd_secret(2) (a sealed memfd where the kernel has none),
  with no enclave's memory behind it.
- *refused*: always with the errno that is named (EBADF where the file is not open for it).
- *handled*: by a handler of that call, on the model.
- *followed*: native, and its success is noted.

A number that has no row here, a 32-bit call and a call of x32 are refused with ENOSYS where they
name an enclave's descriptor or address, and told in the recording.
"""


def _answer(answer: Answer) -> str:
    words = {
        "native": "native",
        "follows": "followed",
        "handled": "handled",
        "stands": "as /dev/null",
    }
    how = words.get(answer.how) or f"refused, {errorcode[answer.errno]}"
    return f"{how}: {answer.source}"


def _row(row: Syscall) -> str:
    kinds = {"": "", "dir": "", "len": ""}
    args = ", ".join(f"**{arg.name}**" if arg.kind not in kinds else arg.name for arg in row.args)
    return f"| {row.nr} | {row.name}({args}) |"


def page() -> str:
    """The page as Markdown: a table for each of descriptors, addresses and names, then the rest."""
    parts = [_HEAD]
    for title, field in (
        ("Calls on the device's descriptor", "file"),
        ("Calls on an enclave's addresses", "vma"),
        ("Calls on the device's name", "path"),
    ):
        rows = [(row, getattr(row, field)) for row in SYSCALLS.values()]
        parts.append(f"## {title}\n| nr | call | answer |\n|---|---|---|")
        parts += [f"{_row(row)} {_answer(answer)} |" for row, answer in rows if answer is not None]
        parts.append("")
    rest = [
        row.name
        for row in SYSCALLS.values()
        if row.file is None and row.vma is None and row.path is None
    ]
    parts.append("## Calls that name neither\n" + ", ".join(rest) + ".")
    return "\n".join(parts) + "\n"
