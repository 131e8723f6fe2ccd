"""``softsgx doctor``: what softsgx needs of this machine, each really tried.

Reading settings would say what ought to work; a container's seccomp profile or a
security module may say no all the same. So each thing is done, in a child that
ends whatever happens, and what failed is told with what can be done about it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from softsgx.cli.options import given, print_json
from softsgx.errors import SoftsgxError

__all__ = ["doctor"]

HELP = """\
usage: softsgx doctor [--json]

Try everything that softsgx needs of this machine. Exit status 0 if programs can be run.

  --json   the same for programs
"""

_TIMEOUT = 20
_NR_ARCH_PRCTL, _ARCH_SET_CPUID = 158, 0x1012

Result = tuple[bool, str]


def doctor(args: list[str]) -> int:
    """Print a line for each thing that was tried; 0 if all that is needed is there, else 1."""
    options = given("doctor", HELP, args, ("--json",))
    if options is None:
        return 0
    as_json = "--json" in options.flags
    can_run, tried = True, []
    for name, needed, check in _CHECKS:
        good, text = _try(check)
        can_run &= good or not needed
        state = "ok" if good else "missing" if needed else "no"
        tried.append({"name": name, "state": state, "needed": bool(needed), "said": text})
        if not as_json:
            print(f"{state:8}{name}{': ' + text if text else ''}", flush=True)
        if needed == _STOP and not good:
            break  # nothing below can be tried on such a machine
    if as_json:
        print_json({"can_run": can_run, "checks": tried})
        return int(not can_run)
    print("softsgx can run programs here" if can_run else "softsgx cannot run programs here")
    return 0 if can_run else 1


def _try(check: Callable[[], Result]) -> Result:
    """Run a check in a child, killed if it hangs."""
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            signal.alarm(_TIMEOUT)
            try:
                good, text = check()
            except SoftsgxError as e:
                good, text = False, str(e)
            except Exception as e:
                good, text = False, f"{type(e).__name__}: {e}"
            os.write(write_end, (("1" if good else "0") + text)[:4000].encode(errors="replace"))
        finally:
            os._exit(0)
    os.close(write_end)
    answer = b""
    while piece := os.read(read_end, 4096):
        answer += piece
    os.close(read_end)
    _, status = os.waitpid(pid, 0)
    if not answer:
        how = signal.Signals(status & 0x7F).name if status & 0x7F else "without a word"
        return False, f"the attempt ended with {how}"
    return answer[:1] == b"1", answer[1:].decode()


# -- the machine ---------------------------------------------------------------------------


def _machine() -> Result:
    u = os.uname()
    good = u.machine == "x86_64" and u.sysname == "Linux" and sys.maxsize > 1 << 32
    what = f"{u.sysname} {u.release}, {u.machine}"
    return good, what if good else f"{what}; softsgx needs a 64-bit Python on x86-64 Linux"


def _proc() -> Result:
    from softsgx.host.status import why_no_proc

    why = why_no_proc()
    return not why, why


def _stopped_child(body: Callable[[], None], parent: Callable[[int], Result]) -> Result:
    """Have ``parent`` look after a seized child that does ``body`` once it is seized."""
    from softsgx.host import ptrace
    from softsgx.host.forbidden import why_no_ptrace

    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(write_end)
            os.read(read_end, 1)
            body()
        finally:
            os._exit(99)
    try:
        try:
            ptrace.seize(pid)
        except OSError as e:
            return False, f"{e.strerror}; {why_no_ptrace(pid)}"
        os.write(write_end, b"x")
        return parent(pid)
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            while not (os.WIFSIGNALED(status := os.waitpid(pid, 0x40000000)[1])
                       or os.WIFEXITED(status)):  # fmt: skip
                pass
        except (ProcessLookupError, ChildProcessError):
            pass


def _ptrace() -> Result:
    from softsgx.host import ptrace
    from softsgx.host.forbidden import why_no_ptrace

    def body() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    def parent(pid: int) -> Result:
        _, status = os.waitpid(pid, 0x40000000)
        if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != signal.SIGUSR1:
            return False, f"wait status {status:#x} instead of a signal stop; {why_no_ptrace(pid)}"
        regs = ptrace.Registers()
        regs.load(pid)
        regs.store(pid)
        ptrace.get_xstate(pid)
        ptrace.get_sigmask(pid)
        return True, ""

    return _stopped_child(body, parent)


def _seccomp() -> Result:
    from softsgx.host import basefilter, ptrace

    def body() -> None:
        program = basefilter.base_program(0)
        if ptrace.seccomp_filter(program):
            ptrace.prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
            error = ptrace.seccomp_filter(program)
            if error:
                os._exit(error)
        os.open("/dev/null", os.O_RDONLY)
        os._exit(99)

    def parent(pid: int) -> Result:
        _, status = os.waitpid(pid, 0x40000000)
        if os.WIFSTOPPED(status) and status >> 16 == ptrace.EVENT_SECCOMP:
            return True, ""
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 99:
            why = os.strerror(os.WEXITSTATUS(status))
            return False, f"{why}: does the kernel have CONFIG_SECCOMP_FILTER, and allow filters?"
        return False, "a filter's SECCOMP_RET_TRACE does not stop the process"

    return _stopped_child(body, parent)


def _listener() -> Result:
    """What descriptors of the device are handed over by; /proc does where it is missing."""
    from softsgx.host import basefilter, ptrace

    pid = os.fork()
    if pid == 0:
        ptrace.prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
        os._exit(max(-ptrace.seccomp_listener(basefilter.base_program(1)), 0))
    _, status = os.waitpid(pid, 0)
    error = os.waitstatus_to_exitcode(status)
    return not error, f"{os.strerror(error)}; /proc/PID/fd is used instead" if error else ""


def _memfd() -> Result:
    try:
        fd = os.memfd_create("softsgx-doctor", os.MFD_CLOEXEC)
        os.ftruncate(fd, 1 << 36)  # sparse: an enclave's address range
        os.pwrite(fd, b"x", (1 << 36) - 1)
        return True, ""
    except OSError as e:
        return (
            False,
            f"{e.strerror}; a file size limit (ulimit -f), or a container that forbids it?",
        )


def _memory() -> Result:
    from softsgx.host import ptrace
    from softsgx.host.forbidden import why_no_ptrace

    buffer = bytearray(b"softsgx looks here")
    at = _address(buffer)

    def parent(pid: int) -> Result:
        if ptrace.read_memory(pid, at, len(buffer)) != bytes(buffer):
            return False, "process_vm_readv does not read a child's memory; " + why_no_ptrace(pid)
        if ptrace.write_memory(pid, at, b"SOFTSGX") != 7:
            return False, "process_vm_writev does not write a child's memory; " + why_no_ptrace(pid)
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as f:
            f.seek(at)
            if f.read(7) != b"SOFTSGX":
                return False, "/proc/PID/mem does not show a child's memory"
        return True, ""

    return _stopped_child(signal.pause, parent)


def _address(buffer: bytearray) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


# -- softsgx itself ------------------------------------------------------------------------


def _vdso() -> Result:
    from softsgx.host import vdso

    vdso.load_image()
    return True, ""


def _capstone() -> Result:
    import capstone

    list(capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(b"\x0f\xa2", 0))
    return True, f"version {capstone.__version__}"


def _cryptography() -> Result:
    import cryptography
    from cryptography.hazmat.primitives.ciphers.algorithms import AES  # noqa: F401

    return True, f"version {cryptography.__version__}"


def _quotes() -> Result:
    """What AESM's messages and the check of a quote take: an extra, as long as none is asked."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return True, f"protobuf {version('protobuf')}, dcap-qvl {version('dcap-qvl')}"
    except PackageNotFoundError as missing:
        return False, f"no {missing.name}; pip install 'softsgx[attest]'"


def _state() -> Result:
    from softsgx.host import state

    state.root_key()
    return True, state.state_dir()


def _cpuid() -> Result:
    """CPUID faulting: good to have. Without it CPUID instructions are patched at load."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).syscall(_NR_ARCH_PRCTL, _ARCH_SET_CPUID, 1) == 0:
        return True, ""
    return False, "not offered here; CPUID instructions are patched as programs are loaded"


def _procmap_query() -> Result:
    from softsgx.host.procmaps import query

    try:
        with open("/proc/self/maps", "rb") as f:
            query(f.fileno(), 4096)
    except OSError:
        return False, "before Linux 6.11; /proc/PID/maps is read instead, which is slower"
    return True, ""


def _short() -> Result:
    """Good to have: without it every EENTER and EEXIT is a stop for the tracer."""
    from softsgx.host import short

    stops = "; every EENTER and EEXIT stops, which takes hundreds of times as long"
    why = short.why_not()
    if why:
        return False, why + stops
    short.load_short()

    def body() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    def parent(pid: int) -> Result:
        os.waitpid(pid, 0x40000000)
        if not short.set_number(pid, 1) or short.is_free(pid):
            return False, "the kernel has no thread area (CONFIG_IA32_EMULATION)" + stops
        return True, ""

    return _stopped_child(body, parent)


def _run() -> Result:
    """The whole way: a program that asks CPUID and opens the device."""
    from softsgx.supervisor.loop.supervisor import Supervisor
    from softsgx.supervisor.state.options import Options

    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    device = "/dev/sgx_enclave"
    options = Options()
    status = Supervisor(options).run(["/bin/sh", "-c", f"exec 3<>{device} && test -c {device}"])
    good = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    return good, "" if good else f"a shell that opens {device} ended with wait status {status:#x}"


def _paths() -> Result:
    """A shell that opens a file often: are its calls led past the stop?"""
    from softsgx.host import pathcode
    from softsgx.supervisor.loop.supervisor import Supervisor
    from softsgx.supervisor.state.options import Options

    if pathcode.available():
        return False, f"{pathcode.available()}; every call on a path stops"
    supervisor = Supervisor(Options())
    supervisor.run(["/bin/sh", "-c", "; ".join(50 * [": < /etc/passwd"])])
    if supervisor.state.paths.led:
        return True, ""
    return False, "calls on paths stop: not led in this machine's /bin/sh, or not allowed"


_STOP = 2  # needed by every check that comes after
_CHECKS: tuple[tuple[str, int, Callable[[], Result]], ...] = (
    ("x86-64 Linux", _STOP, _machine),
    ("/proc", _STOP, _proc),
    ("ptrace of a child", 1, _ptrace),
    ("seccomp filter that stops for the tracer", 1, _seccomp),
    ("seccomp user notification", 0, _listener),
    ("memfd_create", 1, _memfd),
    ("process_vm_readv and process_vm_writev", 1, _memory),
    ("softsgx's vDSO object", 1, _vdso),
    ("capstone", 1, _capstone),
    ("cryptography", 1, _cryptography),
    ("state directory", 1, _state),
    ("quotes", 0, _quotes),
    ("CPUID faulting", 0, _cpuid),
    ("PROCMAP_QUERY", 0, _procmap_query),
    ("entering and leaving without a stop", 0, _short),
    ("a program that opens the device", 1, _run),
    ("paths looked at without a stop", 0, _paths),
)
