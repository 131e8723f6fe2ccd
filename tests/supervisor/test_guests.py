"""SGX programs of our own under softsgx: each check that they print has to be `ok`.

They are C programs (tests/guests) that take their expectations from the SDM and from the
kernel's source, so what fails here is an interface that real programs would stumble over.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from tests.cache import ROOT, build, cache_directory, locked
from tests.command import PATIENCE, Softsgx

Guest = Callable[[str], Path]

# The program and its arguments, and how many checks it prints at least: a guest that ends
# early with status 0 must not pass.
_GUESTS = {
    "threads": ((), 12),
    "signals": (("200",), 11),
    "masks": ((), 31),
    "handlers": ((), 10),
    "illtogether": ((), 2),
    "movedvdso": ((), 6),
    "dispatch": ((), 1),
    "undumpable": ((), 11),
    "opens": ((), 30),
    "peeks": ((), 35),
    "avx": ((), 15),
    "xfrm": ((), 6),
    "nested": ((), 19),
    "aexnotify": ((), 28),
    "rawenclu": ((), 54),
    "illegal": ((), 235),
    "profiled": (("300",), 6),
    "share": ((), 16),
    "cpuid": ((), 20),
    "seal": ((), 20),
    "big": (("1024",), 5),
    "ioctls": ((), 120),
    "interrupted": ((), 5),
    "timeouts": (("entered",), 20),
    "sigwaits": ((), 24),
    "ownsignals": ((), 12),
    "unwanted": ((), 17),
    "mm": ((), 60),
    "believe": ((), 48),
    "sgx2": ((), 34),
    "bothaccept": ((), 2),
    "born": (("processes",), 2),
    "takenover": ((), 1),
    "firstgone": (("8",), 4),
    "stopped": ((), 2),
    "standing": ((), 35),
    "leaderless": ((), 6),
    "sequences": ((), 1),
    "swaps": (("40",), 21),
    "gramine_like": ((), 7),
    "fortanix_like": ((), 6),
    "intel_like": ((), 7),
}


def _cpuid_runs(check: str) -> dict[str, str]:
    if "cpuid_fault" in Path("/proc/cpuinfo").read_text().split():
        return {}
    return {check: "CPUID inside runs: no trap, and enclave code is never patched"}


# What a device in software on this kind of CPU does not do: guest -> check -> why.
# A check that is listed here and passes is a mistake of the list.
_LIMITS = {
    "rawenclu": {**_cpuid_runs("cpuid_signal")},
    "illegal": {
        **_cpuid_runs("cpuid"),
        **dict.fromkeys(("sgdt", "sidt", "sldt", "str", "smsw"), "Linux runs them, or plays them"),
        **dict.fromkeys(("mov_ds_null", "mov_ss_user", "far_ret_user"), "no fault in ring 3"),
        "xgetbv_is_xfrm": "XGETBV cannot be made to trap",
    },
    "cpuid": {
        "jit_sgx": "code made at run time is not searched for CPUID",
    },
    "mm": {
        "elrange_not_epc": "the process's own memory inside ELRANGE is not taken away from it",
    },
}

_LINE = re.compile(r"^(?P<bad>not )?ok (?P<name>\S+)(?: # SKIP (?P<skip>.*)|: .*)?$")


def _checks(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Name to "ok", "skip" or the failing line of every check in a guest's output."""
    result = {}
    for line in done.stdout.splitlines():
        if match := _LINE.match(line):
            state = "skip" if match["skip"] else "ok"
            result[match["name"]] = line if match["bad"] else state
    return result


def _assert_all_ok(
    done: subprocess.CompletedProcess[str], at_least: int, limits: Collection[str] = ()
) -> None:
    """Every check but the `limits` is ok, those are not, and nothing ended early."""
    checks = _checks(done)
    bad = {name: line for name, line in checks.items() if line.startswith("not ok")}
    assert bad.keys() == set(limits), "\n".join([*bad.values(), done.stderr])
    assert done.returncode == bool(bad), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert len(checks) >= at_least, done.stdout


@pytest.mark.parametrize("name", _GUESTS)
def test_guest(name: str, guest: Guest, softsgx: Softsgx) -> None:
    arguments, at_least = _GUESTS[name]
    done = softsgx("--", guest(name), *arguments)
    _assert_all_ok(done, at_least, _LIMITS.get(name, {}))


@pytest.mark.parametrize(
    "name", ["gramine_like", "fortanix_like", "intel_like", "share", "signals"]
)
def test_guest_on_a_device_without_sgx2(name: str, guest: Guest, softsgx: Softsgx) -> None:
    arguments, at_least = _GUESTS[name]
    _assert_all_ok(softsgx("--design", "linux-5.11", "--", guest(name), *arguments), at_least)


# What a release answered otherwise than the guests, which are written for current kernels, expect.
_OLDER = {
    ("linux-6.0", "ioctls"): {
        "add_overflow": "Input/output error",  # before commit f0861f49bd94 (in v6.1)
        "restrict_overflow": "Bad address",
        "modify_overflow": "Bad address",
        "remove_overflow": "Bad address",
    },
    ("linux-6.0", "mm"): {},
    ("linux-5.11", "mm"): {
        "mmap_outside": "success",  # before commit 7b013e723a1f (in v6.0)
        "mmap_anywhere": "success",
    },
}


def test_who_stands_for_another_is_seen_as_bare(guest: Guest) -> None:
    done = subprocess.run(
        [guest("standing")], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    bare = {name: state for name, state in _checks(done).items() if name.startswith("bare_")}
    if "bare_attached" in bare and bare["bare_attached"] != "ok":
        pytest.skip("ptrace(2) is forbidden here; allow it to force this")
    assert set(bare.values()) == {"ok"}, done.stdout
    assert len(bare) == 16


@pytest.mark.parametrize("name", ["sigwaits", "ownsignals"])
def test_what_is_expected_of_signals_is_the_kernels_answer(name: str, guest: Guest) -> None:
    done = subprocess.run([guest(name)], check=False, capture_output=True, text=True)
    _assert_all_ok(done, _GUESTS[name][1])


def test_signals_that_leave_a_tracer_no_time(guest: Guest, softsgx: Softsgx) -> None:
    for exact in ((), ("--exact",)):
        _assert_all_ok(softsgx(*exact, "--", guest("unwanted"), "wanted"), 10)


@pytest.mark.parametrize("name", ["handlers", "illtogether"])
def test_guest_with_no_byte_changed(name: str, guest: Guest, softsgx: Softsgx) -> None:
    arguments, at_least = _GUESTS[name]
    _assert_all_ok(softsgx("--exact", "--", guest(name), *arguments), at_least)


@pytest.mark.parametrize(("design", "name"), _OLDER)
def test_what_an_older_release_answers_otherwise(
    design: str, name: str, guest: Guest, softsgx: Softsgx
) -> None:
    checks = _checks(softsgx("--design", design, "--", guest(name)))
    bad = {n: line for n, line in checks.items() if line.startswith("not ok")}
    expected = _OLDER[design, name]
    assert bad.keys() == {*expected, *_LIMITS.get(name, {})}
    for n, answer in expected.items():
        assert bad[n].startswith(f"not ok {n}: {answer} (")
    assert len(checks) >= _GUESTS[name][1]


def test_an_enclave_that_wants_notifications_where_linux_has_none(
    guest: Guest, softsgx: Softsgx
) -> None:
    done = softsgx("--design", "linux-6.0", "--", guest("aexnotify"))
    _assert_all_ok(done, 3)
    assert _checks(done)["aexnotify"] == "skip"


def test_the_abort_page(guest: Guest, softsgx: Softsgx) -> None:
    _assert_all_ok(softsgx("--abort-page", "--", guest("abortpage")), 7)


@pytest.mark.parametrize("name", ["threads", "nested", "masks", "sgx2"])
def test_guest_with_the_abort_page(name: str, guest: Guest, softsgx: Softsgx) -> None:
    arguments, at_least = _GUESTS[name]
    _assert_all_ok(softsgx("--abort-page", "--verify", "--", guest(name), *arguments), at_least)


def test_what_can_be_done_to_the_name(guest: Guest, softsgx: Softsgx) -> None:
    before = sorted(os.listdir("/dev"))
    _assert_all_ok(softsgx("--", guest("names")), 22)
    assert sorted(os.listdir("/dev")) == before


def test_what_proc_and_sys_say(guest: Guest, softsgx: Softsgx) -> None:
    _assert_all_ok(softsgx("--epc", "64M", "--", guest("views")), 17)


@pytest.mark.parametrize(
    ("design", "shown"), [("linux-5.11", ""), ("v20", ""), ("linux-6.0", "67108864")]
)
def test_the_epcs_size_is_told_as_of_linux_5_17(design: str, shown: str, softsgx: Softsgx) -> None:
    path = "/sys/devices/system/node/node0/x86/sgx_total_bytes"
    if os.path.exists(path):
        pytest.skip("the machine has SGX; one without forces this")
    done = softsgx("--epc", "64M", "--design", design, "--", "cat", path)
    assert done.stdout.strip() == shown, done.stderr
    assert bool(done.returncode) == (not shown)


def test_the_file_that_tells_it_is_one_of_sysfs(softsgx: Softsgx, tmp_path: Path) -> None:
    """By each name that it has, for each call: held against an attribute that is there."""
    node = "/sys/devices/system/node/node0"
    if not os.path.exists(f"{node}/meminfo") or os.path.exists(f"{node}/x86/sgx_total_bytes"):
        pytest.skip("the machine has no such folder, or SGX; another one forces this")
    program = tmp_path / "asks.py"
    program.write_text(f"""
import errno, os, stat, sys
os.chdir("{node}")
for folder in ("{node}/", "/sys/bus/node/devices/node0/", ""):
    for name in (folder + n for n in ("meminfo", "x86/sgx_total_bytes")):
        answers = []
        for ask in (
            *(lambda m=m: os.access(name, m) for m in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)),
            lambda: (lambda s: (s.st_mode, s.st_size, s.st_nlink, s.st_uid, s.st_rdev, s.st_dev))(
                os.stat(name)),
            lambda: os.lstat(name).st_size, lambda: os.readlink(name), lambda: os.listdir(name),
            lambda: os.mkdir(name), lambda: os.stat(name + "/x"),
            *(lambda f=f: os.close(os.open(name, f)) for f in (
                os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_DIRECTORY, os.O_CREAT | os.O_EXCL,
                os.O_NOFOLLOW)),
        ):
            try:
                answers.append(ask())
            except OSError as e:
                answers.append(errno.errorcode[e.errno])
        print(answers)
    assert "x86" in os.listdir(folder or "."), folder
    assert [e.is_dir() for e in os.scandir(folder or ".") if e.name == "x86"] == [True]
    assert os.listdir(folder + "x86") == ["sgx_total_bytes"]
    assert stat.S_ISDIR(os.stat(folder + "x86").st_mode)
    fd = os.open(folder + "x86", os.O_RDONLY)
    assert os.read(os.open("sgx_total_bytes", os.O_RDONLY, dir_fd=fd), 99) == b"67108864\\n"
""")
    done = softsgx("--epc", "64M", "--", sys.executable, program)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert len(set(lines)) == 1


def test_the_interface_of_may_2019(guest: Guest, softsgx: Softsgx) -> None:
    _assert_all_ok(softsgx("--design", "v20", "--", guest("v20")), 14)


def test_the_guests_own_cryptography(guest: Guest, tmp_path: Path) -> None:
    done = subprocess.run(
        [guest("native"), tmp_path / "sigstruct"], capture_output=True, text=True, check=False
    )
    _assert_all_ok(done, 5)
    assert (tmp_path / "sigstruct").stat().st_size == 1808


def test_sealed_data_opens_in_another_run(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    text, sealed = "what only this enclave may read", tmp_path / "sealed"
    _assert_all_ok(softsgx("--", guest("seal"), "seal", sealed, text), 3)
    assert text.encode() not in sealed.read_bytes()
    done = softsgx("--", guest("seal"), "unseal", sealed)
    _assert_all_ok(done, 3)
    assert text in done.stdout.splitlines()


@pytest.mark.parametrize("chunk_kib", ["1024", "4"])
def test_bulk_loading(guest: Guest, softsgx: Softsgx, chunk_kib: str) -> None:
    done = softsgx("--", guest("big"), "load", "32", chunk_kib)
    _assert_all_ok(done, 1)
    assert re.search(r"^load_mb_per_s [1-9]", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("arguments", [("2000",), ("500", "8"), ("2000", "1", "raw")])
def test_many_ecalls(guest: Guest, softsgx: Softsgx, arguments: tuple[str, ...]) -> None:
    _assert_all_ok(softsgx("--", guest("bench_ecall"), *arguments), 1)


@pytest.mark.parametrize("exact", [(), ("--exact",)])
def test_computing_under_signals(guest: Guest, softsgx: Softsgx, exact: tuple[str, ...]) -> None:
    _assert_all_ok(softsgx(*exact, "--", guest("bench_inside"), "200", "20000000"), 2)


@pytest.mark.parametrize("other", [(), ("other",)])
@pytest.mark.parametrize("how", [(), ("--exact",), ("--record", "run.jsonl")])
def test_exceptions_inside_come_to_the_programs_handler(
    guest: Guest, softsgx: Softsgx, how: tuple[str, ...], other: tuple[str, ...],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The trap number and the error code are the exception's, whether it is looked at or not."""
    monkeypatch.chdir(tmp_path)
    _assert_all_ok(softsgx(*how, "--", guest("bench_faults"), "60", *other), 1)


def test_the_sample_enclave_speaks(softsgx: Softsgx) -> None:
    output = cache_directory("hello")
    with locked(output):
        build(["make", "-s", "-C", ROOT / "examples" / "hello", f"OUT={output}"])
    done = softsgx("--", output / "hello", "reader")
    assert done.stdout == "the enclave says: hello, reader\n", done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["plain", "plain_static"])
def test_a_bystander_notices_nothing(name: str, guest: Guest, softsgx: Softsgx) -> None:
    _assert_all_ok(softsgx("--", guest(name)), 13)


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_the_exit_status_is_the_programs(status: int, guest: Guest, softsgx: Softsgx) -> None:
    assert softsgx("--", guest("plain"), "exit", str(status)).returncode == status


def test_input_and_output_are_the_programs(guest: Guest, softsgx: Softsgx) -> None:
    text = "".join(f"line {i}\n" for i in range(10000))
    done = softsgx("--", guest("plain"), "cat", stdin=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


def test_the_folders_of_the_nodes(softsgx: Softsgx) -> None:
    """ls, find, cp -a and df see the nodes where Linux has them."""
    script = """
        ls /dev | grep sgx; find /dev -maxdepth 1 -name 'sgx_e*' -printf '%y %m %p\\n'
        cp -a /dev/sgx_enclave node && stat -c '%t:%T' node
        df /dev/sgx_enclave
    """
    done = softsgx("--", "sh", "-c", script)
    first = ["sgx_enclave", "sgx_provision", "c 666 /dev/sgx_enclave"]
    assert done.stdout.splitlines()[:3] == first, done.stderr
    if os.getuid() == 0:
        assert done.stdout.splitlines()[3] == "a:7d"
    script = "ls -l /dev/sgx | wc -l; cd /dev/sgx && test -c enclave && echo there; mkdir /dev/sgx"
    done = softsgx("--design", "v20", "--", "sh", "-c", script)
    assert done.stdout.split() == ["3", "there"], done.stderr
    assert done.stderr.count("\n") == 1
    assert "File exists" in done.stderr
    assert not os.path.exists("/dev/sgx")


def test_looks_into_memory_are_recorded(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    """A call that has let its thread run, as pidfd_getfd, has no answer to record."""
    done = softsgx("--record", tmp_path / "run.jsonl", "--", guest("peeks"))
    assert (done.returncode, "not ok" in done.stdout) == (0, False), done.stderr


def test_without_a_thread_of_its_own_nothing_is_mapped(guest: Guest, softsgx: Softsgx) -> None:
    """While another thread could find the memory's descriptor, and a filter allows no clone."""
    done = softsgx("--", guest("attacks"), "no_thread")
    _assert_all_ok(done, 2)
    assert "has several threads" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "way",
    [
        *("clone_vm", "vfork", "own_filter", "no_room", "map_files", "race_thread", "race_process"),
        *("untraced", "untraced_thread", "untraced_clone3", "i386", "i386_untraced", "i386_thread"),
        *("takes", "false_answers", "race_untraced", "untraced_late"),
        *("race_getfd", "race_getfd_i386"),
    ],
)
def test_code_stays_what_it_was(way: str, guest: Guest, softsgx: Softsgx) -> None:
    """Each of these once wrote to a page that was proved never to be written."""
    _assert_all_ok(softsgx("--", guest("attacks"), way), 1)


@pytest.mark.skipif(os.getuid() != 0, reason="test_guest[undumpable] says it where nobody is root")
def test_undumpable_to_a_tracer_without_the_capability(guest: Guest) -> None:
    drop = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    command = [*drop, sys.executable, "-m", "softsgx", "run", "--", str(guest("undumpable"))]
    _assert_all_ok(subprocess.run(command, capture_output=True, text=True, check=False), 11)


def test_filters_that_ask_for_a_tracer(guest: Guest, softsgx: Softsgx) -> None:
    """As the kernel answers where nobody traces, and so it does to the same program alone."""
    _assert_all_ok(
        subprocess.run([guest("filters")], capture_output=True, text=True, check=False), 5
    )
    _assert_all_ok(softsgx("--", guest("filters"), "enclave"), 8)
