"""Programs under ``softsgx run`` get quotes: by AESM's socket, and by libsgx_dcap_ql."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from softsgx.sdm.quote import parse_quote
from tests.command import PATIENCE, Softsgx
from tests.supervisor.test_guests import Guest

ASKS = Path(__file__).with_name("asks.py")
SOCKET = "/var/run/aesmd/aesm.socket"
ONCE = f"""
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect({SOCKET!r})
client.sendall(bytes.fromhex("03000000aa0100"))
assert client.recv(100).endswith(bytes.fromhex("aa010408001001"))
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room in a sockaddr_un, which TMPDIR need not."""
    with tempfile.TemporaryDirectory(prefix="softsgx-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize("way", ["aesm", "dcap_ql"])
def test_an_unmodified_program_gets_a_quote(
    softsgx: Softsgx, guest: Guest, tmp_path: Path, way: str
) -> None:
    options = ["--dcap-ql"] if way == "dcap_ql" else []
    before = os.path.lexists("/run/aesmd"), os.path.lexists("/var/run/aesmd")
    done = softsgx(*options, "--", guest("quote"), way, tmp_path / "quote")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "not ok" not in done.stdout
    assert before == (os.path.lexists("/run/aesmd"), os.path.lexists("/var/run/aesmd"))
    quote = parse_quote((tmp_path / "quote").read_bytes())
    assert quote.body.reportdata == b"q" * 64
    native = subprocess.run(
        [guest("native")], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert f"mrenclave {quote.body.mrenclave.hex()}" in native.stdout.replace("=", " ")
    checked = softsgx.command("attest", "verify", tmp_path / "quote")
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.startswith("accepted: UpToDate\n")
    out_of_date = softsgx.command(
        "attest", "verify", tmp_path / "quote", "--tcb-status", "out-of-date"
    )
    assert out_of_date.stdout.startswith("accepted: OutOfDate\n")
    other = {"SOFTSGX_STATE_DIR": str(tmp_path / "other")}
    assert softsgx.command("attest", "verify", tmp_path / "quote", env=other).returncode == 1


def test_a_platform_that_was_set_is_in_quotes(
    softsgx: Softsgx, guest: Guest, tmp_path: Path
) -> None:
    import dcap_qvl

    assert softsgx.command("attest", "platform", "--fmspc", "00906ed50000").returncode == 0
    assert softsgx("--", guest("quote"), "aesm", tmp_path / "quote").returncode == 0
    assert dcap_qvl.parse_quote((tmp_path / "quote").read_bytes()).fmspc() == "00906ED50000"
    assert softsgx.command("attest", "verify", tmp_path / "quote").returncode == 0


def test_provisioning_keys_are_the_devices(softsgx: Softsgx, guest: Guest, tmp_path: Path) -> None:
    """One signer's key is one on a device, whatever the enclave, and another on another device."""
    keys = []
    for state in ("one", "one", "other"):
        done = softsgx(
            "--", guest("quote"), "provision", tmp_path / "key",
            env={"SOFTSGX_STATE_DIR": str(tmp_path / state)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        keys.append((tmp_path / "key").read_bytes())
    assert keys[0] == keys[1]
    assert len({*keys}) == 2


def test_connects_are_answered_as_by_a_real_socket(softsgx: Softsgx, short: Path) -> None:
    folder = short / "aesmd"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "aesm.socket"))
        listening.listen(100)
        (folder / "aesm.socket").chmod(0o777)
        real = subprocess.run(
            [sys.executable, ASKS, folder / "aesm.socket"],
            capture_output=True, text=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
    ours = softsgx("--", sys.executable, ASKS, SOCKET)
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout.splitlines() == real.stdout.splitlines()


def test_the_real_name_of_the_folder_does(softsgx: Softsgx) -> None:
    real = os.path.join(os.path.realpath("/var/run"), "aesmd/aesm.socket")
    done = softsgx("--", sys.executable, "-c", ONCE.replace(SOCKET, real))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_recording_tells_of_it(softsgx: Softsgx, tmp_path: Path) -> None:
    softsgx("--record", tmp_path / "run.jsonl", "--", sys.executable, "-c", ONCE)
    shown = softsgx.command("show", tmp_path / "run.jsonl").stdout
    real = os.path.join(os.path.realpath("/var/run"), "aesmd/aesm.socket")
    assert f'connect("{real}") = 0' in shown


def test_a_device_is_no_socket(softsgx: Softsgx) -> None:
    done = softsgx("--", sys.executable, "-c", ONCE.replace(SOCKET, "/dev/sgx_enclave"))
    assert done.stderr.splitlines()[-1].startswith("ConnectionRefusedError")
    done = softsgx("--", sys.executable, "-c", ONCE.replace(SOCKET, "/dev/sgx_enclave/x"))
    assert done.stderr.splitlines()[-1].startswith("NotADirectoryError")


@pytest.mark.skipif(os.path.lexists("/run/aesmd"), reason="this machine has a service of its own")
def test_without_it_there_is_none(softsgx: Softsgx) -> None:
    done = softsgx("--no-aesm", "--", sys.executable, "-c", ONCE)
    assert "FileNotFoundError" in done.stderr


def test_without_protobuf_a_line_names_the_extra(softsgx: Softsgx, tmp_path: Path) -> None:
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "__init__.py").write_text("")
    done = softsgx("--", sys.executable, "-c", ONCE, env={"PYTHONPATH": str(tmp_path)})
    assert done.stderr.splitlines()[-1].startswith("ConnectionRefusedError")
    told = [line for line in done.stderr.splitlines() if line.startswith("softsgx:")]
    assert told == ["softsgx: AESM's messages need protobuf: pip install 'softsgx[attest]'"]


MANY = f"""
import os, socket, struct, sys, threading
failed = []
def ask():
    for _ in range(5):
        client = socket.socket(socket.AF_UNIX)
        client.connect({SOCKET!r})
        client.sendall(bytes.fromhex("03000000aa0100"))
        if client.recv(11, socket.MSG_WAITALL) != bytes.fromhex("07000000aa010408001001"):
            failed.append(1)
        client.close()
def slow():
    client = socket.socket(socket.AF_UNIX)
    client.connect({SOCKET!r})
    client.sendall(struct.pack("<I", 60000) + b"x")
    return client
kept = [slow() for _ in range(20)]
bad = socket.socket(socket.AF_UNIX)
bad.connect({SOCKET!r})
bad.sendall(bytes.fromhex("ffffffff"))
assert bad.recv(1) == b""
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os._exit(len(failed))
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_many_processes_and_threads_at_once(softsgx: Softsgx) -> None:
    done = softsgx("--", sys.executable, "-c", MANY)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_strangers_process_is_not_answered(softsgx: Softsgx, tmp_path: Path) -> None:
    """The socket has a name that everybody can read; who asks has to be of the run."""
    text = ONCE + (
        "names = open('/proc/net/unix').read().split()\n"
        "print(next(n for n in names if n.startswith('@softsgx-aesm-')), flush=True)\n"
        "input()\n"
    )
    argv = [sys.executable, "-m", "softsgx", "run", "--", sys.executable, "-c", text]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdin
        assert run.stdout
        name = run.stdout.readline().strip()
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(30)  # less than the service's own patience with who says nothing
            stranger.connect("\0" + name[1:])
            assert stranger.recv(1) == b""
        run.stdin.write("\n")
        run.stdin.close()
        assert run.wait(PATIENCE) == 0
