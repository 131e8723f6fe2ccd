"""softsgx run --gdb, packet by packet: threads, memory, breakpoints, signals, and their ends."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.sdm.structs import GPRSGX
from tests.command import PATIENCE, Softsgx
from tests.supervisor.rsp import SUPPORTED, Client, client

Guest = Callable[[str], Path]

_NAMES = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
_RIP = 16


def _symbols(elf: Path) -> dict[str, int]:
    done = subprocess.run(["nm", elf], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[2]: int(row[0], 16) for row in rows if len(row) == 3}


class Session:
    """A guest under the stub, stopped where it has its enclave."""

    def __init__(self, it: Client, guest: Guest) -> None:
        self.client = it
        self.inside = _symbols(guest("debugged").parent / "enclave.elf")
        self.outside = _symbols(guest("debugged"))
        self.base = self.end = self.bias = 0

    def __call__(self, packet: str | bytes) -> str:
        return self.client(packet)

    def start(self, features: str = SUPPORTED) -> str:
        """To the program's first instruction."""
        stop = self.client.hello(features)
        auxv = self("qXfer:auxv:read::0,1000")[1:].encode("latin-1")
        raw = re.sub(rb"}(.)", lambda m: bytes([m[1][0] ^ 0x20]), auxv, flags=re.DOTALL)
        words = [int.from_bytes(raw[n : n + 8], "little") for n in range(0, len(raw), 8)]
        self.bias = dict(zip(words[::2], words[1::2], strict=True))[9] - self.outside["_start"]
        return stop

    def to(self, addr: int) -> str:
        """Run to an address, by a breakpoint that is gone afterwards: the stop."""
        assert self(f"Z0,{addr:x},1") == "OK"
        stop = self("vCont;c")
        assert self(f"z0,{addr:x},1") == "OK"
        return stop

    def load(self, features: str = SUPPORTED) -> None:
        """To where the enclave is loaded."""
        self.start(features)
        assert self.to(self.bias + self.outside["calls"]).startswith("T05")
        self.find()

    def find(self) -> None:
        told = self.client.monitor("enclaves")
        found = re.search("enclave (0x[0-9a-f]+)-(0x[0-9a-f]+)", told)
        assert found is not None, told
        self.base, self.end = int(found[1], 16), int(found[2], 16)

    def registers(self) -> dict[str, int]:
        raw = bytes.fromhex(self("g"))
        names = (*_NAMES, "rip")
        return {n: int.from_bytes(raw[8 * i : 8 * i + 8], "little") for i, n in enumerate(names)}

    def read(self, addr: int, length: int) -> bytes:
        return bytes.fromhex(self(f"m{addr:x},{length:x}"))

    def word(self, name: str) -> int:
        return int.from_bytes(self.read(self.bias + self.outside[name], 8), "little")


@pytest.fixture
def session(guest: Guest, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Session]:
    def start(mode: str, *options: str | Path) -> Session:
        context = client(tmp_path, *options, "--", guest("debugged"), mode)
        it = context.__enter__()
        request.addfinalizer(lambda: context.__exit__(None, None, None))
        return Session(it, guest)

    return start


Start = Callable[..., Session]


def test_a_breakpoint_inside_and_steps_in_and_out(session: Start, tmp_path: Path) -> None:
    s = session("calls", "--record", tmp_path / "r.jsonl")
    s.load()
    entry = s.base + s.inside["enclave_entry"]
    assert s.to(entry).startswith("T05swbreak:;")
    regs = s.registers()
    assert regs["rip"] == entry
    assert regs["rax"] == 0  # CSSA
    tcs, behind = regs["rbx"], regs["rcx"]
    # The second ECALL by single steps, from what stands for the ENCLU of softsgx's vDSO: a system
    # call before it.
    assert s.read(behind - 5, 5) == b"\x0f\x05\x0f\x01\xd7"
    assert s.to(behind - 5).startswith("T05")
    assert s("vCont;s").startswith("T05thread:")
    assert s.registers()["rip"] == entry
    leave = s.base + s.inside["enclave_leave"]
    assert s.to(leave).startswith("T05")
    for _ in range(30):
        assert s("vCont;s").startswith("T05thread:")
        rip = s.registers()["rip"]
        if not s.base <= rip < s.end:
            break
    assert rip == behind
    assert s("vCont;c") == f"W03;process:{_pid(s):x}"
    assert s.client.end() == 0x03
    events = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    entered = [e for e in events if e.get("event") == "enclu" and e["leaf"] == 2]
    assert [(e["rip"], e["rbx"]) for e in entered] == [(entry, tcs)] * 2
    assert not [e for e in events if e.get("event") == "aex"]  # to look is no AEX


def _thread(s: Session) -> str:
    """The thread that a stop was last told of, as packets name it."""
    found = re.search(r"thread:(p[0-9a-f]+\.[0-9a-f]+);", s.client.stop)
    assert found is not None
    return found[1]


def _pid(s: Session) -> int:
    return int(_thread(s)[1:].partition(".")[0], 16)


def _spinning(s: Session) -> tuple[str, str]:
    """Two threads, one inside and one outside, where they stay: (its id, the other's)."""
    s.start()
    assert s.to(s.bias + s.outside["spin"]).startswith("T05")
    s.find()
    assert s("vCont;c").startswith("T1f")
    outside = _thread(s)
    threads = s("qfThreadInfo")[1:].split(",")
    assert len(threads) == 2
    assert outside in threads
    (inside,) = set(threads) - {outside}
    told = s("qXfer:threads:read::0,1000")
    assert re.findall(r'id="([p0-9a-f.]+)"[^>]*>in enclave', told) == [inside]
    return inside, outside


def test_registers_are_what_an_aex_saves(session: Start) -> None:
    s = session("spin")
    inside, _ = _spinning(s)
    found = re.search("TCS (0x[0-9a-f]+)<", s("qXfer:threads:read::0,1000"))
    assert found is not None
    tcs = int(found[1], 16)
    assert s(f"Hg{inside}") == "OK"
    before = s.registers()
    assert s.base <= before["rip"] < s.end
    assert s(f"Z0,{s.bias + s.outside['handler']:x},1") == "OK"
    assert s(f"vCont;C1e:{inside}").startswith("T05swbreak:;")
    assert _thread(s) == inside
    assert s.registers()["rip"] == s.bias + s.outside["handler"]
    assert s.registers()["rdi"] == signal.SIGUSR1
    ssa = int.from_bytes(s.read(tcs + 16, 8), "little")
    saved = GPRSGX.unpack(s.read(s.base + ssa + 4096 - GPRSGX.size, GPRSGX.size))
    assert {name: getattr(saved, name) for name in (*_NAMES, "rip")} == before


def test_who_debugs_can_ask_for_the_word_and_change_what_the_program_has(session: Start) -> None:
    s = session("spin")
    inside, outside = _spinning(s)
    s.client.send("vCont;c")
    s.client.raw(b"\x03")
    assert s.client.answer().startswith("T02thread:")
    assert (s(f"T{inside}"), s(f"T{outside}"), s("T7fffffff")) == ("OK", "OK", "E03")
    where = s.bias + s.outside["caught"]
    assert s(f"M{where:x},4:2a000000") == "OK"
    assert s(b"X%x,1:\x01" % (s.bias + s.outside["stop"])) == "OK"
    assert s("vCont;c") == f"W2a;process:{_pid(s):x}"
    assert s.client.end() == 0x2A


def test_memory_of_an_enclave_is_that_of_edbgrd_and_edbgwr(session: Start) -> None:
    s = session("calls")
    s.load()
    assert s.to(s.base + s.inside["enclave_main"]).startswith("T05")
    regs = s.registers()
    tcs = regs["rdx"]
    words = [int.from_bytes(s.read(tcs + n, 8), "little") for n in (8, 16, 24, 32)]
    assert words[0] == 0  # FLAGS
    assert words[3] == s.inside["enclave_entry"]
    assert words[2] & 0xFFFFFFFF == 0  # CSSA
    assert s(f"M{tcs + 8:x},8:0100000000000000") == "OK"  # DBGOPTIN
    assert s.read(tcs + 8, 1) == b"\x01"
    assert s(f"M{tcs + 32:x},8:0000000000000000") == "E0e"
    assert s(f"M{tcs + 8:x},8:0200000000000000") == "E0e"
    # A breakpoint does not show, and what is written over it stays.
    code = s.base + s.inside["enclave_leave"]
    before = s.read(code, 4)
    assert s(f"Z0,{code:x},1") == "OK"
    assert s.read(code, 4) == before
    assert s(f"M{code:x},1:{before[:1].hex()}") == "OK"
    assert s("vCont;c").startswith("T05swbreak:;")
    assert s.registers()["rip"] == code
    assert s("D") == "OK"
    assert s.client.end() == 3


def test_an_enclave_that_is_not_debug_shows_nothing(session: Start) -> None:
    s = session("closed")
    s.load()
    code = s.base + s.inside["enclave_main"]
    assert "closed" in s.client.monitor("enclaves")
    assert s(f"m{code:x},4") == "E0e"
    assert s(f"M{code:x},1:90") == "E0e"
    assert s(f"Z0,{code:x},1") == "E0e"
    # A single step takes all of the stay inside.
    assert s.to(s.bias + s.outside["encl_vdso_enter"]).startswith("T05")
    vdso = s.bias + s.outside["encl_vdso"]
    function = int.from_bytes(s.read(vdso, 8), "little")
    left = 0
    for _ in range(400):
        assert s("vCont;s").startswith("T05thread:")
        regs = s.registers()
        assert not s.base <= regs["rip"] < s.end
        left += regs["rax"] == 4 and regs["rip"] > function
        if left:
            break
    assert left
    assert s("vCont;c") == f"W03;process:{_pid(s):x}"


def test_signals_are_told_and_passed_or_not(session: Start) -> None:
    for resume, status in (("vCont;C1e", 0), ("vCont;c", 1)):
        s = session("signal")
        s.start()
        assert s("vCont;c").startswith("T1ethread:")
        assert s(resume) == f"W{status:02x};process:{_pid(s):x}"
    s = session("signal")
    s.start()
    assert s("QPassSignals:1e;1f") == "OK"
    assert s("vCont;c") == f"W00;process:{_pid(s):x}"


def test_an_exception_inside_is_told_where_it_is(session: Start) -> None:
    s = session("raw")
    s.start()
    assert s("vCont;c").startswith("T04thread:")
    s.find()
    rip = s.registers()["rip"]
    assert s.base <= rip < s.end
    assert s.read(rip, 2) == b"\x0f\x0b"
    assert s("vCont;C04") == f"X04;process:{_pid(s):x}"
    assert s.client.end() == -signal.SIGILL


def test_an_exception_that_the_vdso_gets_is_told_on_demand(session: Start) -> None:
    s = session("fault")
    s.start()
    assert s("vCont;c") == f"W06;process:{_pid(s):x}"
    s = session("fault")
    s.start()
    assert s.client.monitor("exceptions on") == ""
    assert s("vCont;c").startswith("T04thread:")
    s.find()
    assert s.base <= s.registers()["rip"] < s.end
    assert s("vCont;C04") == f"W06;process:{_pid(s):x}"


def test_a_watched_variable_inside(session: Start) -> None:
    s = session("calls")
    s.load()
    assert s.to(s.base + s.inside["enclave_main"]).startswith("T05")
    call = s.registers()["rdi"]
    heap = int.from_bytes(s.read(call + 8, 8), "little")
    answer = s(f"Z2,{heap:x},8")
    if answer == "":
        pytest.skip("no debug registers here; a machine that has them runs this")
    assert s("vCont;c").startswith(f"T05watch:{heap:x};")
    assert s.read(heap, 8) == b"\x05" + bytes(7)
    assert s(f"z2,{heap:x},8") == "OK"
    assert s("vCont;c") == f"W03;process:{_pid(s):x}"


def test_breakpoints_in_an_enclave_that_is_to_be(session: Start) -> None:
    s = session("calls")
    s.start()
    # Where ELRANGE is reserved, and nothing added yet.
    assert s.to(s.bias + s.outside["encl_create"]).startswith("T05")
    encl = s.registers()["rdi"]  # struct encl: fd, base, …
    base = int.from_bytes(s.read(encl + 8, 8), "little")
    code = base + s.inside["enclave_main"]
    assert s(f"Z0,{code:x},1") == "OK"
    assert s("vCont;c").startswith("T05swbreak:;")
    assert s.registers()["rip"] == code
    assert s(f"z0,{code:x},1") == "OK"
    assert s("vCont;c") == f"W03;process:{_pid(s):x}"


def test_a_child_that_nobody_debugs_meets_no_breakpoint(session: Start) -> None:
    s = session("fork")
    s.start("qSupported:multiprocess+;swbreak+")
    assert s(f"Z0,{s.bias + s.outside['calls']:x},1") == "OK"
    assert s("vCont;c").startswith("T14")  # SIGCHLD: the child has ended
    assert s("vCont;c") == f"W04;process:{_pid(s):x}"


def test_a_child_can_be_followed(session: Start) -> None:
    s = session("fork")
    s.start()
    assert s(f"Z0,{s.bias + s.outside['calls']:x},1") == "OK"
    stop = s("vCont;c")
    found = re.match(r"T05fork:(p([0-9a-f]+)\.[0-9a-f]+);", stop)
    assert found is not None
    parent, child = _pid(s), int(found[2], 16)
    assert s(f"vCont;c:p{child:x}.-1").startswith("T05swbreak:;")
    assert _pid(s) == child
    s.find()
    assert s.to(s.base + s.inside["enclave_main"]).startswith("T05swbreak:;")
    assert s(f"z0,{s.bias + s.outside['calls']:x},1") == "OK"
    assert s(f"vCont;c:p{child:x}.-1") == f"W04;process:{child:x}"
    assert s(f"vCont;c:p{parent:x}.-1").startswith("T14")
    assert s("vCont;c") == f"W04;process:{parent:x}"


def test_exec_is_told_and_takes_breakpoints_away(session: Start) -> None:
    s = session("exec")
    s.start()
    assert s(f"Z0,{s.bias + s.outside['calls']:x},1") == "OK"
    stop = s("vCont;c")
    found = re.match("T05exec:([0-9a-f]+);", stop)
    assert found is not None
    assert bytes.fromhex(found[1]) == os.fsencode(os.path.realpath("/bin/echo"))
    assert s("vCont;c") == f"W00;process:{_pid(s):x}"
    assert s.client.process.stdout is not None
    assert s.client.process.stdout.read() == b"executed\n"


def test_detached_it_goes_on(session: Start) -> None:
    s = session("calls")
    s.load()
    for place in (s.base + s.inside["enclave_main"], s.bias + s.outside["encl_op"]):
        assert s(f"Z0,{place:x},1") == "OK"
    assert s(f"D;{_pid(s):x}") == "OK"
    assert s.client.end() == 3
    assert s.client.said == ""


@pytest.mark.parametrize("packet", ["k", "vKill;"])
def test_killed_it_ends(session: Start, packet: str) -> None:
    s = session("spin")
    _spinning(s)
    if packet == "k":
        s.client.send("k")
    else:
        assert s(f"vKill;{_pid(s):x}") == "OK"
    assert s.client.end() == -signal.SIGKILL


def test_a_connection_that_ends_leaves_the_program_standing(session: Start) -> None:
    s = session("spin")
    _spinning(s)
    # Of its breakpoints the next one knows nothing.
    assert s(f"Z0,{s.bias + s.outside['_fini']:x},1") == "OK"
    s.client.send("vCont;c")
    s.client.connect()
    assert s.client.hello().startswith("T0")
    s(b"X%x,1:\x01" % (s.bias + s.outside["stop"]))
    assert s("vCont;c").startswith("W00;process:")
    assert s.client.end() == 0
    assert "gdb: the debugger went away; the program stands: target remote" in s.client.said


def test_a_signal_ends_a_program_that_nobody_comes_to_debug(session: Start) -> None:
    s = session("spin")
    s.client.socket.close()
    os.kill(s.client.process.pid, signal.SIGTERM)
    assert s.client.end() == -signal.SIGTERM
    assert "the program goes on without one" in s.client.said


_WORDS = (
    "?", "g", "G", "p", "P", "m", "M", "X", "Z0", "Z1", "Z2", "Z4", "z0", "z2", "H", "Hg", "Hc",
    "T", "vCont", "vCont;x", "vCont;Cz", "vCont;c:pz",
    "qXfer:features:read:target.xml:", "qXfer:auxv:read::", "D;", "vKill;",
    "qXfer:libraries-svr4:read::", "qXfer:threads:read::", "qXfer:siginfo:read::", "qRcmd,",
    "qXfer:exec-file:read:", "QPassSignals:", "qSupported", "qAttached:", "qSymbol:", "vFile:open:",
)  # fmt: skip
_REST = (
    "", "0", "-1", "1", "p1.1", "p-1.-1", "ffffffffffffffff", "7fffffff,8", "0,0", ",", ":", "=",
    "0,ffffffffffffffff", "ffffffffffffffff,2:ff", "0,1:00", "61", "6", "zz", "x:p0.0", "\xff}",
    "ffffffffffffff,8", "10=", "0=00", "1000,1000", "0,1;X3,220027", ";;;", "c:", "c:p", "C", "Sff",
)  # fmt: skip


def test_packets_that_make_no_sense_have_an_answer(session: Start) -> None:
    s = session("calls")
    s.load()
    stop = s("?")
    chance = random.Random(11)
    for _ in range(600):
        packet = chance.choice(_WORDS) + "".join(chance.choices(_REST, k=chance.randrange(1, 4)))
        answer = s(packet.encode("latin-1"))
        assert answer[:1] in ("", "E", "O", "T", "W", "m", "l", "Q", "P") or re.fullmatch(
            "[0-9a-fx]*", answer
        ), (packet, answer)
    for _ in range(200):
        s.client.raw(chance.randbytes(chance.randrange(1, 60)).replace(b"\x03", b""))
    s.client.raw(b"#00")
    assert _last(s, "qC").startswith("QC")
    assert s("Hg0") == "OK"
    assert s(SUPPORTED).startswith("PacketSize=")
    assert s("?") == stop
    assert s("QPassSignals:") == "OK"
    assert s("D") == "OK"
    assert s.client.end() == 3


def _last(s: Session, packet: str) -> str:
    """The answer to a packet behind others that have answers, too."""
    s.client.send(packet)
    s.client.send("qAttached")
    found = ""
    while (answer := s.client.answer()) != "0":
        found = answer
    return found


def test_bad_ports_are_one_line(softsgx: Softsgx, guest: Guest) -> None:
    for port in ("x", "70000", "-5", "::", "1.2.3.4.5:1", "", "nowhere.invalid:1", "203.0.113.1:1"):
        done = softsgx("--gdb", port, "--", guest("debugged"))
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"softsgx: --gdb {port}: ")
        assert done.stderr.count("\n") == 1
    done = softsgx("--gdb", "0", "--inject", "EAUG:lost", "--", guest("debugged"))
    assert done.returncode == 2
    done = softsgx("--gdb", "0", "--", "/nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_on_standard_input_the_program_has_none(tmp_path: Path) -> None:
    packets = ["QStartNoAckMode", "?", "vCont;c"]
    wanted = b"".join(b"$%b#%02x+" % (p.encode(), sum(p.encode()) & 0xFF) for p in packets)
    command = [sys.executable, "-m", "softsgx", "run", "--gdb", "-", "--"]
    command += ["/bin/sh", "-c", "read x || echo out $x; exit 5"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdin is not None
        process.stdin.write(wanted)
        process.stdin.flush()
        assert process.wait(PATIENCE) == 5
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.read().decode()
        assert process.stderr.read() == b"out\n"
    assert re.fullmatch(r"\+*\$OK#9a\+*\$T05thread:[0-9a-f]+;#..\$W05#..", said), said


def test_a_debugger_that_goes_away_takes_the_program_along(softsgx: Softsgx) -> None:
    done = softsgx("--gdb", "-", "--", "/bin/sleep", "600")
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == "softsgx: gdb: the debugger went away: what it debugged is killed\n"
