"""The designs on real processes under a real policy: whom each of them stops, and where.

loader_t is the loader of an enclave that lies in an unmodified file. Its booleans are the
permissions that the mail argues about, one each.
"""

from __future__ import annotations

import ctypes.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Softsgx
from tests.orders import Script

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or ctypes.util.find_library("selinux") is None
    or shutil.which("apparmor_parser", path="/usr/bin:/bin:/usr/sbin:/sbin") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1 apparmor",
)

Run = Callable[..., list[str]]


@pytest.fixture
def run(softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path) -> Run:
    """``run(design, options, script)``: what was denied on the way, ``perms on type``."""

    def run(design: str, options: str, *lines: str) -> list[str]:
        audit = tmp_path / "audit"
        audit.unlink(missing_ok=True)
        words = options.split()
        context = [] if "--context" in words else ["--context", "loader_t"]
        args: list[str | Path] = ["--selinux", "minimal", *context, "--audit", audit]
        for word in words:
            known = re.fullmatch(
                r"(write|execute|execmem|wx_segment|mapwx|exec\w+|enclave_\w+)=(on|off)", word
            )
            args += ["--boolean", f"sgx_loader_{word}"] if known else [word]
        Script(softsgx, guest, *args)(design, *lines)
        found = []
        for line in audit.read_text().splitlines():
            match = re.search(r"denied  \{ (.*?) \}.*tcontext=\w+:\w+:(\w+).*tclass=(\w+)", line)
            assert match, line
            found.append(f"{match[1]} on {match[2]}:{match[3]}")
        return found

    return run


@pytest.fixture
def profiled(softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path) -> Callable[..., None]:
    """``profiled(design, script, denied)``: without m of its files AppArmor answers what is
    ``denied`` and logs it; with m the answer is 0, and nothing is logged.
    """

    def profiled(
        design: str, script: str, denied: str, *, device: str = "rwm", files: str = f"{tmp_path}/*",
        operation: str = "enclave_load",
    ) -> None:  # fmt: skip
        profile, audit = tmp_path / "profile", tmp_path / "audit"
        for letters, answer in (("rw", denied), ("rwm", 0)):
            profile.write_text(
                f"abi <abi/3.0>,\nprofile l {{ /dev/sgx/enclave {device}, {files} {letters}, }}\n"
            )
            audit.unlink(missing_ok=True)
            args = ("--apparmor", profile, "--audit", audit)
            Script(softsgx, guest, *args)(design, script.format(answer))
            assert (f'operation="{operation}"' in audit.read_text()) == (answer != 0)

    return profiled


DEVICE = "sgx_enclave_device_t:chr_file"


def test_v20_asks_the_same_of_every_enclave(run: Run) -> None:
    script = "0 open e rw -> 0\n0 create e -> 0\n0 mmap e all rw -> 0\n0 mmap e all rwx -> {}"
    assert run("v20", "", script.format(0)) == []
    denied = run("v20", "execute=off", script.format("EACCES"))
    assert denied == [f"execute on {DEVICE}"]
    assert run("v20", "write=off", "0 open e rw -> EACCES") == [f"write on {DEVICE}"]


def test_safe_to_execute_lets_an_unmodified_file_run_and_stops_the_generator(run: Run) -> None:
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=file_rx perm=rx -> 0
        0 add e p1 via=region src=anon_rw perm=rx -> 0
        0 add e p2 via=region src=anon_rw perm=rw -> 0
        0 mmap e p0 rx -> 0
        0 mmap e p1 rx -> {}
        0 mmap e p2 rw -> 0
    """
    denied = run("safe-to-execute", "", script.format("EACCES"))
    assert denied == [f"execmod on {DEVICE}"]
    assert run("safe-to-execute", "execmod=on", script.format(0)) == []
    assert run("safe-to-execute", "--context generator_t", script.format(0)) == []


def test_source_vma_asks_execute_only_beyond_the_source(run: Run) -> None:
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=file_rx perm=rx -> 0
        0 add e p1 via=region src=anon_rw perm=rwx -> 0
        0 mmap e p0 rx -> 0
        0 mmap e p1 rw -> 0
        0 mprotect p1 rx -> {}
    """
    denied = run("source-vma", "execute=off", script.format("EACCES"))
    assert denied == [f"execute on {DEVICE}"]
    assert run("source-vma", "", script.format(0)) == []


def test_ioc_mprotect_asks_for_more_only_for_what_is_written_and_executed(run: Run) -> None:
    script = """
        0 open e {} -> 0
        0 create e -> 0
        0 add e p0 via=region src=file_rx perm=rx -> 0
        0 add e p1 via=region src=anon_rw perm=rw -> 0
        0 mmap e all - -> 0
        0 iocmprotect e p0 rx -> 0
        0 iocmprotect e p1 rw -> 0
        0 extend e p1 x -> 0
        0 iocmprotect e p1 {} -> {}
    """
    design = "ioc-mprotect:source=prot,open=rdonly"
    without = "\n".join(script.splitlines()[:6]).format("r") + "\n0 iocmprotect e p0 rx -> EACCES"
    assert run(design, "write=off execute=off", without) == [f"execute on {DEVICE}"]
    # Even for reading it again. But the VMA of an fd that was opened for reading has no
    # VM_SHARED, so SELinux takes it for a private one: the mail's WRITE is never asked, and
    # whoever holds EXECMEM goes without.
    for prot in ("rx", "rw", "r"):
        denied = run(design, "write=off", script.format("r", prot, "EACCES"))
        assert denied == ["execmem on loader_t:process"]
    assert run(design, "write=off execmem=on", script.format("r", "rx", 0)) == []
    # An fd for reading and writing needs WRITE from the start.
    assert run("ioc-mprotect:source=prot", "", script.format("rw", "rx", 0)) == []
    assert run("ioc-mprotect", "write=off", "0 open e rw -> EACCES") == [f"write on {DEVICE}"]


def test_segments_are_granted_apart_by_their_labels(run: Run) -> None:
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=file_rx perm=rx segment=rx -> 0
        0 add e p1 via=region src=anon_rw perm=rw segment=rw -> 0
        0 add e p2 via=region src=anon_rw perm=rw segment=rwx -> {}
        0 mmap e all - -> 0
        0 mapsegment e p0 rx rx -> 0
        0 mapsegment e p1 rw rw -> 0
        0 mprotect p0 r -> 0
        0 mprotect p0 rx -> 0
    """
    assert run("segments", "", script.format("EACCES")) == [
        "create on sgx_segment_rwx_t:anon_inode"
    ]
    # Made, but not held by everybody: the label is its maker's transition.
    more = "0 mapsegment e p2 rwx rwx -> 0"
    assert run("segments", "wx_segment=on", script.format(0), more) == []
    # S_PRIVATE inodes, as in 2019: all that is left to ask about code is execmem.
    more = "0 mapsegment e p2 rwx rw -> 0"
    private = script.replace("mapsegment e p0 rx rx -> 0", "mapsegment e p0 rx rx -> {0}")
    lines = [line for line in private.splitlines() if "mprotect" not in line]
    denied = run("segments:inode=private", "", "\n".join(lines).replace("{}", "0").format("EACCES"))
    assert denied == ["execmem on loader_t:process"]
    execmem = "\n".join(lines).replace("{}", "0").format(0)
    assert run("segments:inode=private", "execmem=on", execmem, more) == []


def test_a_segments_descriptor_in_another_process(
    run: Run, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    """The label is the segment's whoever has the descriptor, and its receiver is asked for it."""
    other = tmp_path / "other"
    shutil.copy(guest("orders"), other)
    script = f"""
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=anon_rw perm=rw segment=rw -> 0
        0 segmentfd e s rw -> 0
        0 fork 1 -> 0
        0 send s 1 -> 0
        1 recv t -> 0
        1 mmap t p0 rw -> 0
        0 spawn 2 {other} -> 0
        0 send s 2 -> 0
        2 recv t -> 0
        2 mmap t p0 r -> {{}}
    """
    assert run("segments", "", script.format(0)) == []
    denied = run(
        "segments", f"--context loader_t --context {other}=bystander_t", script.format("EACCES")
    )
    assert denied == ["read write on sgx_segment_rw_t:anon_inode"]
    generator = f"--context loader_t --context {other}=generator_t"
    assert run("segments", generator, script.format(0)) == []


def test_linux_checks_who_received_the_device(
    run: Run, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copy(guest("orders"), other)
    script = f"""
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=pages src=anon_rw perm=rx -> 0
        0 spawn 1 {other} -> 0
        0 send e 1 -> 0
        1 recv e -> 0
        1 add e p1 via=pages src=anon_rw perm=rx -> {{0}}
        1 mmap e p0 r -> {{0}}
        0 mmap e p0 rx -> 0
    """
    assert run("linux-6.0", "", script.format(0)) == []
    options = f"--context loader_t --context {other}=bystander_t"
    denied = run("linux-6.0", options, script.format("EACCES"))
    assert denied == [f"read write on {DEVICE}"] * 2


def test_the_lsm_comes_before_a_place_that_is_taken(run: Run) -> None:
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 mmap e p0 - -> 0
        0 mmap e p0 r noreplace -> EEXIST
        0 mmap e p0 rx noreplace -> {}
    """
    denied = run("linux-6.0", "execute=off", script.format("EACCES"))
    assert denied == [f"execute on {DEVICE}"]
    assert run("linux-6.0", "", script.format("EEXIST")) == []


def test_apparmor_asks_m_of_a_source_that_is_a_file_and_nothing_of_others(
    softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    """The seed: "AppArmor doesn't have a concept of EXECMOD, EXECMEM, EXECHEAP"."""
    profile, file = tmp_path / "profile", tmp_path / "enclave.so"
    file.write_bytes(bytes(4096))
    text = "abi <abi/3.0>,\nprofile loader {{ /dev/sgx_enclave rw, {} }}\n"
    of_file = {"file_rx", "file_rwx", "file_written_rx"}
    for rule, refused in (("", of_file), (f"{file} mr,", set[str]())):
        profile.write_text(text.format(rule))
        done = softsgx("--apparmor", profile, "--", guest("sources"), file)
        answers = dict(line.split() for line in done.stdout.splitlines())
        assert {name for name, answer in answers.items() if answer != "0"} == refused
        assert {answers[name] for name in refused} <= {"13"}
        assert len(answers) == 10


def test_segments_are_nothing_that_apparmor_sees(
    softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    """Their inodes have no path: who may open the device may have any of them."""
    profile = tmp_path / "profile"
    profile.write_text("abi <abi/3.0>,\nprofile loader { /dev/sgx/enclave rw, }\n")
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=anon_rw perm=rwx segment=rwx -> 0
        0 mmap e all - -> 0
        0 mapsegment e p0 rwx rwx -> 0
    """
    Script(softsgx, guest, "--apparmor", profile)("segments", script)
    # The seed's own proposal has AppArmor's file_mprotect see W with X, on the device's path.
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=anon_rw perm=rwx -> 0
        0 mmap e all - -> 0
        0 iocmprotect e p0 r -> {}
    """
    for rule, answer in (("rw", "EACCES"), ("rwm", 0)):
        profile.write_text(f"abi <abi/3.0>,\nprofile loader {{ /dev/sgx/enclave {rule}, }}\n")
        Script(softsgx, guest, "--apparmor", profile)("ioc-mprotect", script.format(answer))


# -- "security: x86/sgx: SGX vs. LSM", June 2019 --------------------------------------------------


def test_allowed_prot_asks_what_a_page_is_loaded_from_and_what_it_is_mapped_with(run: Run) -> None:
    """v4: SGX_EXECUTE of the file, SGX_EXECANON, SGX_EXECUNMR, SGX_EXECDIRTY, SGX_MAPWX."""
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=file_r perm=rx segment=rx -> 0
        0 add e p1 via=region src=anon_rw perm=rx segment=rx -> {anon}
        0 add e p2 via=region src=file_r perm=rx segment=rx measure=0 -> {unmr}
        0 add e p3 via=region src=file_r perm=rwx segment=rwx -> {dirty}
        0 add e p4 via=region src=anon_rw perm=rw segment=rw measure=0 -> 0
        0 mmap e p0 rx -> 0
        0 mmap e p4 rw -> 0
        0 mmap e p3 rw -> {dirty}
        0 mmap e p3 rwx -> {wx}
    """
    no = dict.fromkeys(("anon", "unmr", "dirty", "wx"), "EACCES")
    itself = "loader_t:process2"
    denied = run("allowed-prot", "", script.format(**no))
    assert denied == [f"{p} on {itself}" for p in ("sgx_execanon", "sgx_execunmr", "sgx_execdirty")]
    yes = dict.fromkeys(("anon", "unmr", "dirty"), 0) | {"wx": "EACCES"}
    held = "execanon=on execunmr=on execdirty=on"
    assert run("allowed-prot", held, script.format(**yes)) == [f"sgx_mapwx on {itself}"]
    assert run("allowed-prot", f"{held} mapwx=on", script.format(**yes | {"wx": 0})) == []
    assert run("allowed-prot", "--context generator_t", script.format(**yes | {"wx": 0})) == []
    # v3 has other names for two of them, and takes files for private ones.
    v3 = script.format(**no).replace("segment=rx -> 0", "segment=rx -> EACCES")
    v3 = v3.replace("mmap e p0 rx -> 0", "mmap e p0 rx -> EACCES")
    asked = ("sgx_execanon", "sgx_execanon", "sgx_execunmr", "sgx_execmod")
    assert run("allowed-prot:version=v3", "", v3) == [f"{p} on {itself}" for p in asked]


def test_what_was_written_since_it_was_mapped_is_anonymous(run: Run) -> None:
    """ "Loading enclave code from an anonymous mapping or from a modified private file mapping"."""
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=file_rw perm=rx segment=rx -> 0
        0 add e p1 via=region src=written_r perm=rx segment=rx -> EACCES
        0 add e p2 via=region src=shared_r perm=rx segment=rx -> 0
    """
    assert run("allowed-prot", "", script) == ["sgx_execanon on loader_t:process2"]
    (denied,) = run("allowed-prot:version=v2", "", script)
    assert denied.startswith("execmod on ")
    assert denied.endswith(":file")


def test_a_page_of_eaug_is_asked_about_when_it_becomes_executable(run: Run) -> None:
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e base via=region segment=auto code=shared_rx -> 0
        0 init e -> 0
        0 aug e p0 via=region perm=rwx segment=rwx -> 0
        0 mmap e p0 rw -> 0
        0 mprotect p0 rx -> {}
    """
    denied = run("allowed-prot", "", script.format("EACCES"))
    assert denied == ["sgx_execdirty on loader_t:process2"]
    assert run("allowed-prot", "execdirty=on", script.format(0)) == []


def test_versions_one_and_two_ask_what_ordinary_memory_is_asked(run: Run) -> None:
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=file_r perm=rx segment=rx -> 0
        0 add e p1 via=region src=anon_rw perm=r segment=rx -> {}
        0 mmap e p1 rx -> EACCES
    """
    itself = "execmem on loader_t:process"
    assert run("allowed-prot:version=v2", "", script.format("EACCES")) == [itself]
    # v1 lets the page in, without X: an LSM's audit line of what never failed.
    assert run("allowed-prot:version=v1", "", script.format(0)) == [itself]
    more = script.format(0).replace("mmap e p1 rx -> EACCES", "mmap e p1 rx -> 0")
    assert run("allowed-prot:version=v1", "execmem=on", more) == []


def test_apparmor_asks_m_of_the_file_that_code_is_loaded_from(
    profiled: Callable[..., None], tmp_path: Path
) -> None:
    script = f"""
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=file_r perm=rx segment=rx dir={tmp_path} -> {{}}
        0 add e p1 via=region src=file_r perm=rw segment=rw dir={tmp_path} -> 0
        0 add e p2 via=region src=anon_rw perm=rx segment=rx -> 0
    """
    profiled("allowed-prot", script, "EACCES", device="rw")


def test_maxperm_is_vetted_at_eadd_and_asks_nobody_later(run: Run) -> None:
    """Lutomirski, 23 May 2019: "the LSM has *already* vetted everything"; but nobody for RX."""
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=anon_rw perm=rx segment=rx -> 0
        0 add e p1 via=region src=anon_rw perm=rwx segment=rwx -> {}
        0 mmap e p0 - -> 0
        0 mprotect p0 rx -> 0
    """
    assert run("maxperm", "execute=off", script.format("EACCES")) == [f"execmod on {DEVICE}"]
    assert run("maxperm", "execute=off execmod=on", script.format(0)) == []


SIGSTRUCT = "file_t:enclave"


def test_sigstruct_proxy_asks_of_sigstructs_file_and_of_no_source(run: Run) -> None:
    """Christopherson, 30 May 2019: "EXECMOD is required if PROT_EXEC and ALLOW_WRITE"."""
    script = """
        0 open e rw -> 0
        0 add e p0 via=plan perm=rx -> 0
        0 add e p1 via=plan perm=rwx -> 0
        0 create e src={} -> 0
        0 add e p0 via=region src=anon_rw perm=rx -> 0
        0 add e p1 via=region src=anon_rw perm=rwx segment=w -> 0
        0 mmap e all - -> 0
        0 mprotect p1 rw -> 0
        0 mprotect p0 rx -> {}
        0 mprotect p1 rx -> {}
    """
    nobody = script.format("file_r", "EACCES", "EACCES")
    assert run("sigstruct-proxy", "enclave_execute=off", nobody) == [
        f"execute on {SIGSTRUCT}", f"execmod execute on {SIGSTRUCT}",
    ]  # fmt: skip
    assert run("sigstruct-proxy", "", script.format("file_r", 0, "EACCES")) == [
        f"execmod on {SIGSTRUCT}"
    ]
    assert run("sigstruct-proxy", "enclave_execmod=on", script.format("file_r", 0, 0)) == []
    # "i.e. force sigstruct to reside in filesystem": a denial without a question.
    anonymous = script.format("anon_rw", "EACCES", "EACCES")
    assert run("sigstruct-proxy", "enclave_execmod=on", anonymous) == []
    # "Require them on the process. Does not require sigstruct to be backed by file".
    process = "sigstruct-proxy:mail=30-may-process"
    assert run(process, "", script.format("anon_rw", 0, "EACCES")) == [
        "execmod on loader_t:enclave"
    ]
    # "Reuse FILE__EXECUTE and FILE__EXECMOD on sigstruct"; without a file it is EXECMEM.
    file = "sigstruct-proxy:mail=30-may-file"
    assert run(file, "", script.format("file_r", 0, "EACCES")) == ["execmod on file_t:file"]
    denied = run(file, "", anonymous)
    assert denied == ["execmem on loader_t:process"] * 2
    assert run(file, "execmem=on", script.format("anon_rw", 0, 0)) == []


def test_sigstruct_proxy_asks_before_there_is_an_enclave(run: Run) -> None:
    """Christopherson, 30 May 2019: "unwanted enclaves can't DoS wanted enclaves"."""
    script = "0 open e rw -> 0\n0 create e src=file_r -> {}"
    for mail, target in (
        ("30-may", SIGSTRUCT), ("30-may-process", "loader_t:enclave"),
    ):  # fmt: skip
        design = f"sigstruct-proxy:launch=asked,mail={mail}"
        assert run(design, "", script.format(0)) == []
        denied = run(design, "enclave_execute=off", script.format("EACCES"))
        assert denied == [f"execute on {target}"]


def test_sigstruct_proxy_of_24_may_is_one_touchpoint_in_mmap(run: Run) -> None:
    """Christopherson, 24 May 2019: "Require FILE__READ+FILE__EXECUTE on .sigstruct to mmap()"."""
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e base via=region -> 0
        0 add e p0 via=region src=anon_rw perm=rwx -> 0
        0 mmap e all - -> 0
        0 init e src={} -> 0
        0 mmap e p0 rx -> {}
        0 mmap e p0 rw -> {}
        0 mprotect p0 rx -> {}
    """
    design = "sigstruct-proxy:mail=24-may"
    assert run(design, "", script.format("file_r", 0, 0, "EACCES")) == ["execmod on file_t:file"]
    assert run(design, "execmod=on", script.format("file_r", 0, 0, 0)) == []
    denied = run(design, "", script.format("anon_rw", "EACCES", "EACCES", "ENOMEM"))
    assert denied == ["execmem on loader_t:process"] * 2


def test_apparmor_asks_m_of_sigstructs_file(profiled: Callable[..., None]) -> None:
    """No mail has AppArmor's text; it is as apparmor_enclave_load()'s of June 2019."""
    script = """
        0 open e rw -> 0
        0 add e p0 via=plan perm=rx -> 0
        0 create e src=file_r -> 0
        0 add e p0 via=region src=anon_rw perm=rx -> 0
        0 mmap e all - -> 0
        0 mprotect p0 r -> 0
        0 mprotect p0 rx -> {}
    """
    files, operation = "/tmp/orders-source-*", "enclave_mprotect"
    profiled("sigstruct-proxy", script, "EACCES", files=files, operation=operation)


FILE, SELF = "file_t:file", "loader_t:process"


@pytest.mark.parametrize(
    ("held", "sigstruct", "dirty", "both"),
    [
        ("", "file_r", "EPERM", "EPERM"),
        ("execmod=on", "file_r", "0", "EPERM"),  # (c) is EXECMOD of SIGSTRUCT's file
        ("execmem=on", "file_r", "EPERM", "EPERM"),  # W and X at once is X of what becomes DIRTY
        ("execmod=on execmem=on", "file_r", "0", "0"),
        ("execmod=on", "anon_rw", "EPERM", "EPERM"),  # in no file: EXECMEM
        ("execmem=on", "anon_rw", "0", "0"),
    ],
)
def test_fsm_keeps_what_the_lsm_says_at_einit(
    run: Run, held: str, sigstruct: str, dirty: str, both: str
) -> None:
    """Lutomirski, 12 June 2019: "a combination of flags DENY_WX and DENY_X_DIRTY"."""
    script = f"""
        0 open e rw -> 0
        0 create e -> 0
        0 add e base via=region -> 0
        0 add e p0 via=region src=file_r perm=rwx -> 0
        0 add e p1 via=region src=file_r perm=rwx -> 0
        0 mmap e p0 rw -> 0
        0 mprotect p0 rx -> EPERM
        0 mmap e p1 rwx -> EPERM
        0 init e src={sigstruct} -> 0
        0 mprotect p0 rx -> {dirty}
        0 mmap e p1 rwx -> {both}
    """
    denied = run("fsm", held, script)
    # (b) is asked of the data, too, which nobody wants to execute.
    execmem = "execmem=on" in held
    assert (f"execmem on {SELF}" in denied) == (not execmem)
    asked = sigstruct == "file_r" and "execmod=on" not in held
    assert (f"execmod on {FILE}" in denied) == asked


def test_fsm_by_flags_refuses_at_eadd(run: Run) -> None:
    """#1: "This hook will fail if ALLOW_EXEC is requested and …"; data is not asked about."""
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=anon_rw perm=rx segment=rx -> {}
        0 add e p1 via=region src=anon_rw perm=rw segment=rw -> 0
        0 add e p2 via=region src=written_r perm=rx segment=rx -> {}
        0 add e p3 via=region src=file_r perm=rx segment=rx -> 0
    """
    design = "fsm:model=flags"
    denied = run(design, "", script.format("EACCES", "EACCES"))
    assert denied == [f"execmem on {SELF}", f"execmod on {FILE}"]
    assert run(design, "execmem=on execmod=on", script.format(0, 0)) == []


def test_apparmor_hears_of_the_source_under_fsm(
    profiled: Callable[..., None], tmp_path: Path
) -> None:
    """M of the file makes a page CLEAN_MAYEXEC; of (b), (c) and (d) AppArmor knows nothing."""
    script = f"""
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=file_r perm=rx dir={tmp_path} -> 0
        0 add e p1 via=region src=anon_rw perm=rx -> 0
        0 mmap e p0 rx -> {{}}
        0 mmap e p1 rx -> 0
    """
    profiled("fsm", script, "EPERM")


def test_execute_intent_asks_for_one_of_three_and_then_for_what_is_not_meant(run: Run) -> None:
    """Lutomirski, 30 May 2019: "neither EXECUTE, EXECMOD, nor EXECMEM"."""
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=region src=file_r perm=rx segment=x -> 0
        0 add e p1 via=region src=anon_rw perm=rx segment=x -> {}
        0 add e p2 via=region src=anon_rw perm=rwx -> 0
        0 mmap e p0 rx -> 0
        0 mmap e p2 rw -> 0
        0 mprotect p2 rwx -> {}
        0 mprotect p2 rx -> {}
    """
    execmem = "execmem on loader_t:process"
    denied = run("execute-intent", "", script.format("EACCES", "EACCES", "EACCES"))
    assert denied == [execmem, execmem, f"execmod on {DEVICE}"]
    assert run("execute-intent", "execmem=on", script.format(0, 0, "EACCES")) == [
        f"execmod on {DEVICE}"
    ]
    both = "execmem=on execmod=on execute=off"  # EXECUTE on the device is nothing here
    assert run("execute-intent", both, script.format(0, 0, 0)) == []


def test_execute_intent_may_ask_about_einit(run: Run) -> None:
    """Lutomirski, 30 May 2019: security_enclave_init()."""
    script = """
        0 open e rw -> 0
        0 create e -> 0
        0 add e base via=region segment=auto only=x -> 0
        0 init e src={} -> {}
    """
    design = "execute-intent:launch=asked"
    assert run(design, "", script.format("file_r", 0)) == []
    denied = run(design, "", script.format("anon_rw", "EACCES"))
    assert denied == ["execmem on loader_t:process"]
