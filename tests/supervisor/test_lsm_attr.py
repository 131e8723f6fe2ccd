"""/proc/PID/attr under a security module, as libselinux and libapparmor read and write it."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import Softsgx

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or ctypes.util.find_library("selinux") is None
    or shutil.which("apparmor_parser", path="/usr/bin:/bin:/usr/sbin:/sbin") is None
    or not os.path.exists("/proc/self/attr/current"),
    reason="no engine here, or no CONFIG_SECURITY; to run it: apt-get install libsepol2 libselinux1"
    " apparmor, with a kernel that has /proc/PID/attr",
)

PROGRAM = """
import ctypes, errno, os, threading
selinux = ctypes.CDLL("libselinux.so.1", use_errno=True)

def did(answer):
    return errno.errorcode[ctypes.get_errno()] if answer else "0"

def get(name):
    text = ctypes.c_char_p()
    return (text.value or b"-").decode() if not getattr(selinux, name)(ctypes.byref(text)) else "?"

def name(kind):
    return f"system_u:system_r:{kind}_t:s0".encode()

def write(text, path="/proc/thread-self/attr/current"):
    fd = os.open(path, os.O_RDWR)
    try:
        return os.write(fd, text)
    except OSError as e:
        return errno.errorcode[e.errno]
    finally:
        os.close(fd)

def in_thread(what):
    found = []
    thread = threading.Thread(target=lambda: found.append(what()))
    thread.start()
    thread.join()
    return found[0]
"""
# What a policy needs for the tests: who may change to whom, and a type within another.
MODULE = """
(type one_t) (type two_t) (type inner_t)
(typeattributeset domain (one_t two_t inner_t))
(roletype system_r one_t) (roletype system_r two_t) (roletype system_r inner_t)
(typebounds one_t inner_t)
(allow one_t two_t (process (dyntransition getattr)))
(allow one_t domain (process (transition)))
(allow two_t file_t (file (entrypoint)))
(allow two_t unlabeled_t (file (entrypoint)))
"""


def _run(
    softsgx: Softsgx, tmp_path: Path, code: str, *options: str, module: str = MODULE
) -> list[str]:
    (tmp_path / "mine.cil").write_text(module)
    options = options or (
        "--selinux", "minimal", "--selinux", str(tmp_path / "mine.cil"), "--context", "one_t"
    )  # fmt: skip
    done = softsgx(*options, "--", sys.executable, "-c", PROGRAM + code)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


def test_a_program_changes_its_context_as_the_policy_allows(
    softsgx: Softsgx, tmp_path: Path
) -> None:
    code = """
print(get("getcon"))
print(did(selinux.setcon(name("bystander"))), did(selinux.setcon(name("nosuch"))))
print(did(selinux.setcon(name("two"))), get("getcon"))
print(did(selinux.setcon(name("one"))), get("getcon"))  # there is no way back
"""
    one, two = "system_u:system_r:one_t:s0", "system_u:system_r:two_t:s0"
    assert _run(softsgx, tmp_path, code) == [one, "EACCES", "EINVAL", "0", two, "EACCES", two]


def test_what_is_asked_is_recorded_and_logged(softsgx: Softsgx, tmp_path: Path) -> None:
    (tmp_path / "mine.cil").write_text(MODULE)
    audit = tmp_path / "audit"
    code = 'selinux.setcon(name("bystander"))'
    done = softsgx(
        "--selinux", "minimal", "--selinux", tmp_path / "mine.cil", "--context", "one_t",
        "--audit", audit, "--", sys.executable, "-c", PROGRAM + code,
    )  # fmt: skip
    assert done.returncode == 0
    (line,) = audit.read_text().splitlines()
    assert "denied  { dyntransition }" in line
    assert "scontext=system_u:system_r:one_t:s0 tcontext=system_u:system_r:bystander_t:s0" in line
    assert "tclass=process" in line


def test_setcurrent_is_asked_first(softsgx: Softsgx, tmp_path: Path) -> None:
    """Of a context that is none, too: EACCES comes before EINVAL."""
    module = MODULE.replace("(typeattributeset domain (one_t two_t inner_t))", "").replace(
        "(typebounds one_t inner_t)", ""
    )
    code = 'print(did(selinux.setcon(b"none")), did(selinux.setexeccon(name("two"))))'
    assert _run(softsgx, tmp_path, code, module=module) == ["EACCES", "EACCES"]


def test_a_second_thread_forbids_all_but_bounded_types(softsgx: Softsgx, tmp_path: Path) -> None:
    """current_is_single_threaded(), security_bounded_transition(); each thread has its own."""
    code = """
def inside():
    first = did(selinux.setcon(name("two")))
    return first, write(name("one"))  # the same type
print(*in_thread(inside))
"""
    assert _run(softsgx, tmp_path, code) == ["EPERM", "26"]
    code = """
print(*in_thread(lambda: (did(selinux.setcon(name("inner"))), get("getcon"))), get("getcon"))
"""
    module = MODULE + "(allow one_t inner_t (process (dyntransition)))\n"
    answers = _run(softsgx, tmp_path, code, module=module)
    assert [a.rpartition(":")[0].rpartition(":")[2] or a for a in answers] == [
        "0", "inner_t", "one_t"
    ]  # fmt: skip


def test_the_next_program_has_the_context_that_was_asked_for(
    softsgx: Softsgx, tmp_path: Path
) -> None:
    code = """
print(did(selinux.setexeccon(name("two"))), get("getexeccon"), flush=True)
if os.fork() == 0:
    os.execv("/bin/cat", ["cat", "/proc/self/attr/current", "/proc/self/attr/prev",
                          "/proc/self/attr/exec"])
os.wait()
print()
print(did(selinux.setexeccon(None)), get("getexeccon"))
"""
    one, two = "system_u:system_r:one_t:s0", "system_u:system_r:two_t:s0"
    answers = _run(softsgx, tmp_path, code)
    assert answers == ["0", two, f"{two}\0{one}\0", "0", "-"]


def test_files_are_read_and_written_as_proc_does(softsgx: Softsgx, tmp_path: Path) -> None:
    """proc_pid_attr_read() and _write(): who opened it, whose it is, where, what is left over."""
    code = """
fd = os.open("/proc/thread-self/attr/current", os.O_RDWR)
print(os.read(fd, 6).decode(), os.read(fd, 9).decode(), os.pread(fd, 3, 9).decode())
def tried(text):
    try:
        return os.write(fd, text)
    except OSError as e:
        return errno.errorcode[e.errno]
print(tried(name("two")), flush=True)  # not at its start
os.lseek(fd, 0, 0)
child = os.fork()
if child == 0:
    print(tried(name("two")), flush=True)  # another mm opened it
    os._exit(0)
os.waitpid(child, 0)
print(in_thread(lambda: write(name("two"), "/proc/self/attr/current")))  # the leader's
print(write(b""), write(b"\\n", "/proc/self/attr/exec"))
print(write(name("two") + b"\\n"), len(name("two")))
"""
    assert _run(softsgx, tmp_path, code) == [
        "system", "_u:system", "sys", "EINVAL", "EPERM", "EACCES", "EINVAL", "1", "26", "26",
    ]  # fmt: skip


# -- AppArmor ----------------------------------------------------------------------------------

PROFILES = """abi <abi/3.0>,
profile one {
  change_profile -> two,
  change_profile /usr/bin/* -> three,
  change_profile /bin/* -> three,
  ^hat {
    /dev/sgx_enclave r,
  }
  ^other {
  }
  profile child {
  }
}
profile two {
  /dev/sgx_enclave r,
}
profile three {
}
profile easy flags=(complain) {
}
"""
APPARMOR = """
apparmor = ctypes.CDLL("libapparmor.so.1", use_errno=True)

def now():
    text, mode = ctypes.c_char_p(), ctypes.c_char_p()
    apparmor.aa_getcon(ctypes.byref(text), ctypes.byref(mode))
    return f"{text.value.decode()}/{(mode.value or b'-').decode()}"
"""
needs_libapparmor = pytest.mark.skipif(
    ctypes.util.find_library("apparmor") is None,
    reason="no libapparmor here; to run it: apt-get install libapparmor1",
)


def _confined(softsgx: Softsgx, tmp_path: Path, code: str, profile: str = "one") -> list[str]:
    (tmp_path / "profiles").write_text(PROFILES)
    options = ("--apparmor", f"{tmp_path}/profiles:{profile}")
    return _run(softsgx, tmp_path, APPARMOR + code, *options)


@needs_libapparmor
def test_a_profile_is_changed_by_its_rules(softsgx: Softsgx, tmp_path: Path) -> None:
    code = """
change = apparmor.aa_change_profile
print(now(), did(change(b"nosuch")), did(change(b"easy")), now(), did(change(b"two")), now())
print(did(change(b"one")), write(b"changeprofile two", "/proc/self/attr/current"))
"""
    assert _confined(softsgx, tmp_path, code) == [
        "one/enforce", "ENOENT", "EACCES", "one/enforce", "0", "two/enforce", "EACCES", "EACCES",
    ]  # fmt: skip
    code = 'print(did(apparmor.aa_change_profile(b"nosuch")), write(b"permprofile nosuch"), now())'
    assert _confined(softsgx, tmp_path, code, "easy") == ["0", "ENOENT", "easy/complain"]


@needs_libapparmor
def test_the_next_program_has_the_profile_that_was_asked_for(
    softsgx: Softsgx, tmp_path: Path
) -> None:
    code = """
print(did(apparmor.aa_change_onexec(b"easy")), did(apparmor.aa_change_onexec(b"three")))
print(open("/proc/self/attr/exec").read().split()[0], now(), flush=True)
if os.fork() == 0:
    os.execv("/bin/cat", ["cat", "/proc/self/attr/current"])
os.wait()
"""
    assert _confined(softsgx, tmp_path, code) == [
        "EACCES", "0", "three", "one/enforce", "three", "(enforce)"
    ]  # fmt: skip


@needs_libapparmor
def test_hats_are_put_on_and_taken_off_with_their_token(softsgx: Softsgx, tmp_path: Path) -> None:
    code = """
hat = lambda name, token: did(apparmor.aa_change_hat(name, ctypes.c_ulong(token)))
print(hat(b"nosuch", 7), hat(b"child", 7), hat(b"hat", 7), now())
print(hat(b"other", 7), now(), open("/proc/self/attr/prev").read().split()[0])
print(hat(None, 7), now(), hat(None, 0), write(b"changehat 7"), write(b"changehat x^hat"))
several = (ctypes.c_char_p * 3)(b"nosuch", b"other", None)
print(did(apparmor.aa_change_hatv(several, ctypes.c_ulong(1))), now(), flush=True)
if os.fork() == 0:
    hat(None, 8)  # who guesses is killed
    os._exit(0)
print(os.wait()[1])
print(did(apparmor.aa_change_profile(b"two")))  # of a hat with no rule
"""
    assert _confined(softsgx, tmp_path, code) == [
        "ENOENT", "EPERM", "0", "one//hat/enforce", "0", "one//other/enforce", "one",
        "0", "one/enforce", "EINVAL", "EINVAL", "EINVAL", "0", "one//other/enforce", "9", "EACCES",
    ]  # fmt: skip
    code = 'print(write(b"changehat 7^hat"), write(b"nonsense a"), write(b"x"), write(b""))'
    assert _confined(softsgx, tmp_path, code, "two") == ["ECHILD", "EINVAL", "EINVAL", "EINVAL"]


@needs_libapparmor
def test_what_a_profile_lacks_for_a_change_is_told(softsgx: Softsgx, tmp_path: Path) -> None:
    (tmp_path / "profiles").write_text(PROFILES)
    record, audit = tmp_path / "run.jsonl", tmp_path / "audit"
    code = PROGRAM + APPARMOR + 'apparmor.aa_change_profile(b"easy")'
    done = softsgx(
        "--apparmor", f"{tmp_path}/profiles:one", "--record", record, "--audit", audit,
        "--", sys.executable, "-c", code,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = audit.read_text().splitlines()
    assert 'apparmor="DENIED" operation="change_profile" profile="one" name="easy" pid=' in line
    assert line.endswith(' target="easy"')
    lines = softsgx.command("policy", record).stdout.splitlines()
    assert "  change_profile -> easy," in lines
    assert "missing: change_profile -> easy," in softsgx.command("explain", record).stdout


def test_without_a_module_the_files_are_the_kernel_s(softsgx: Softsgx) -> None:
    code = """
import os
fd = os.open("/proc/self/attr/current", os.O_RDWR)
for call in (lambda: os.read(fd, 100), lambda: os.write(fd, b"changeprofile a")):
    try:
        print(call())
    except OSError as e:
        print(e)
"""
    native = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert softsgx("--", sys.executable, "-c", code).stdout == native
