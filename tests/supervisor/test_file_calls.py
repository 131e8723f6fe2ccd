"""Every call that takes a descriptor, on the device's, against a real character device.

The oracle is a device of this machine whose driver has no read, write, poll or fsync either
(/dev/userfaultfd, /dev/kvm, /dev/udmabuf): the same calls on both have to give the same
answers, but for what those drivers have and SGX's has not.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from softsgx.supervisor.calls.files import HANDLERS
from softsgx.uapi.syscalls import SYSCALLS, NR_fcntl, NR_mmap, Syscall
from tests.command import PATIENCE, Softsgx
from tests.supervisor.test_guests import Guest

# Misc devices that can seek and whose drivers have ioctl and llseek alone, or nearly so.
LIKE = ("/dev/userfaultfd", "/dev/kvm", "/dev/udmabuf")
LEFT_OUT = {
    # They would end or change the descriptor, the test or the machine.
    *("close", "dup2", "dup3", "fchmod", "fchown", "kexec_file_load", "finit_module", "setns"),
    *("fsconfig", "fsmount", "quotactl_fd"),
    # The drivers' own, and addresses: other tests.
    *("ioctl", "mmap"),
    # Those drivers have noop_llseek.
    "lseek",
}


def like() -> str | None:
    """A device that can be opened here."""
    for path in LIKE:
        try:
            os.close(os.open(path, os.O_RDWR))
        except OSError:
            continue
        return path
    return None


def calls_of(row: Syscall) -> list[str]:
    """The call on the descriptor, and on a dup of it, with several other arguments."""
    lines = []
    for which in row.of_kind("fd", "pidfd"):
        for fd in ("F", "D"):
            for buf, n in (("B", 8), ("B", 0), ("0", 8), ("U", 1), ("B", -1)):
                words = []
                for i, arg in enumerate(row.args):
                    if arg.kind in {"fd", "pidfd"}:
                        words.append(fd if i == which else "N")
                    elif arg.name.startswith("off_"):
                        words.append("0")
                    elif i == 1 or arg.name in {"buf", "value", "event", "offset"}:
                        words.append(buf if row.name != "fcntl" else str({8: 3, 0: 1034}.get(n, 5)))
                    else:
                        words.append(str(n))
                lines.append(f"{row.nr} {' '.join(words)}")
    return lines


ROWS = [row for row in SYSCALLS.values() if row.of_kind("fd", "pidfd") and row.name not in LEFT_OUT]


def _differ(answers: Iterable[tuple[str, str, str]]) -> dict[str, tuple[str, str]]:
    """The calls that ours answers otherwise than the real device."""
    return {
        f"{SYSCALLS[int(call.split()[0])].name}: {call}": (real, our)
        for call, real, our in answers
        if real != our and not (seeks(call) and our == "-1 EINVAL")
    }


def _answers_alike(softsgx: Softsgx, program: Path, lines: list[str]) -> str:
    """Hold the device against the real one that is like it, call by call: what that said."""
    device = like()
    assert device is not None
    text = "\n".join(lines) + "\n"
    real = subprocess.run(
        [program, device], input=text, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    ours = softsgx("--", program, "/dev/sgx_enclave", stdin=text)
    assert ours.returncode == 0, ours.stderr
    answers = zip(lines, real.stdout.splitlines(), ours.stdout.splitlines(), strict=True)
    assert _differ(answers) == {}
    return real.stdout


@pytest.mark.skipif(like() is None, reason=f"none of {LIKE} opens here; root can open one")
def test_each_call_answers_as_on_a_real_character_device(softsgx: Softsgx, guest: Guest) -> None:
    lines = [line for row in ROWS for line in calls_of(row)]
    lines += [f"{NR_fcntl} F 1024 {lease}" for lease in (0, 1, 2)]
    _answers_alike(softsgx, guest("rawcalls"), lines)
    assert len(lines) > 400


def pairs() -> list[str]:
    """Each call on two descriptors with the device on either side, beside files of every kind."""
    lines = []
    for name, template in {
        "sendfile": "{out} {source} {a} {n}",
        "splice": "{source} {a} {out} {b} {n} {flags}",
        "tee": "{source} {out} {n} {flags}",
        "copy_file_range": "{source} {a} {out} {b} {n} {flags}",
    }.items():
        number = next(n for n, row in SYSCALLS.items() if row.name == name)
        both = [(device, other) for device in "FRW" for other in ("9999", *"NGEAPQTSOFRW")]
        for (source, out), (a, b), (n, flags) in itertools.product(
            {*both, *((o, d) for d, o in both)},
            (("0", "0"), ("B", "0"), ("0", "B"), ("1", "1"), ("M", "0")),
            (("8", "0"), ("0", "0"), ("8", "64"), ("0", "64")),
        ):
            call = template.format(source=source, out=out, a=a, b=b, n=n, flags=flags)
            lines.append(f"{number} {call}")
    return sorted(set(lines))


def seeks(line: str) -> bool:
    """Whether the oracle's driver, which can seek, sends nothing where SGX's is no source at all.

    Source: splice_direct_to_actor(), FMODE_LSEEK (before v6.0: a regular file or a block device).
    """
    words = line.split()
    return words[0] == "40" and words[2] in {"F", "D", "R"} and words[4] == "0" and words[1] != "P"


@pytest.mark.skipif(like() is None, reason=f"none of {LIKE} opens here; root can open one")
def test_the_other_descriptor_has_its_say(softsgx: Softsgx, guest: Guest) -> None:
    said = _answers_alike(softsgx, guest("rawcalls"), pairs())
    assert {"EBADF", "EINVAL", "ESPIPE", "EFAULT", "EISDIR"} <= set(said.split())


def test_lseek_and_the_ends_of_the_list(softsgx: Softsgx, guest: Guest, tmp_path: Path) -> None:
    program, record = guest("rawcalls"), tmp_path / "record"
    text = "8 F 0 0\n8 D 0 2\n8 F 0 9\n100000 F\n100000 77777 0\n"
    done = softsgx("--record", record, "--", program, "/dev/sgx_enclave", stdin=text)
    assert done.stdout.splitlines() == [
        "-1 ESPIPE", "-1 ESPIPE", "-1 EINVAL", "-1 ENOSYS", "-1 ENOSYS",
    ]  # fmt: skip
    shown = softsgx.command("show", record).stdout
    assert shown.count("a call that softsgx has no row for") == 1


def test_every_row_that_wants_a_handler_has_one() -> None:
    wants = {nr for nr, row in SYSCALLS.items() if row.file and row.file.how == "handled"}
    assert wants == {*HANDLERS, NR_mmap}
