"""softsgx inspect, measure and sign: what people and programs get, and what is refused."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.cli import main as cli
from softsgx.sdm import sigstruct
from tests.cache import ROOT, build, cache_directory, locked
from tests.command import PATIENCE, Softsgx
from tests.images import elves
from tests.images.plain import RW, RX, TCS, Plain

KEY = str(ROOT / "tests/data/sigstruct/test-key.pem")


def run(capfd: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    status = cli.main([str(arg) for arg in args])
    out, err = capfd.readouterr()
    return status, out, err


@pytest.fixture
def stream(tmp_path: Path) -> tuple[Path, str]:
    """An .sgxs stream and its MRENCLAVE."""
    plain = Plain(0x8000)
    plain.page(0, TCS, b"tcs")
    plain.pages(0x1000, RX, b"code" * 2048)
    plain.page(0x4000, RW, b"later", measured=False)
    path = tmp_path / "enclave.sgxs"
    path.write_bytes(plain.stream)
    return path, plain.mrenclave


@pytest.fixture(scope="module")
def hello() -> Path:
    """The example's folder, built: its own C program has measured and signed."""
    folder = cache_directory("enclave-files-hello")
    with locked(folder):
        build(["make", "-s", "-C", ROOT / "examples" / "hello", f"OUT={folder}"])
    return folder


def test_measure_a_stream(capfd: pytest.CaptureFixture[str], stream: tuple[Path, str]) -> None:
    path, mrenclave = stream
    assert run(capfd, "measure", path) == (0, f"{mrenclave}\n", "")
    status, out, _ = run(capfd, "measure", "--json", path)
    assert status == 0
    assert json.loads(out) == {"mrenclave": mrenclave, "size": 0x8000, "ssa_frame_pages": 1}
    copy = path.with_name("copy.sgxs")
    assert run(capfd, "measure", "-o", copy, path) == (0, f"{mrenclave}\n", "")
    assert copy.read_bytes() == path.read_bytes()


def test_a_stream_from_standard_input(stream: tuple[Path, str]) -> None:
    path, mrenclave = stream
    with path.open("rb") as f:
        done = subprocess.run(
            [sys.executable, "-m", "softsgx", "measure", "-"],
            stdin=f, capture_output=True, text=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
    assert done.stdout == f"{mrenclave}\n"


def test_sign_and_inspect(
    capfd: pytest.CaptureFixture[str], stream: tuple[Path, str], tmp_path: Path
) -> None:
    path, mrenclave = stream
    signature = tmp_path / "enclave.sig"  # beside it, where inspect looks
    family = "0123456789abcdef" * 2
    options = ["--isvprodid", 7, "--isvsvn", "0x9", "--date", "2024-02-29", "--vendor=0x8086",
               "--swdefined", 3, "--attributes", "0x84", "--isvfamilyid", family, "--debug",
               "--xfrm", 7, "--xfrm-mask", "0xffffffffffffff1b", "--misc-mask", 0]  # fmt: skip
    status, out, err = run(capfd, "sign", "--key", KEY, "-o", signature, *options, path)
    assert (status, err) == (0, "")
    signed = signature.read_bytes()
    s = sigstruct.parse(signed)
    assert out == f"mrenclave {mrenclave}\nmrsigner {sigstruct.mrsigner(s.modulus).hex()}\n"
    assert sigstruct.check_fields(signed) is None
    assert sigstruct.check_signature(signed) is None
    assert (s.isvprodid, s.isvsvn, s.date, s.vendor, s.swdefined) == (7, 9, 0x20240229, 0x8086, 3)
    assert (s.attributes, s.attributemask) == (0x86, 2**64 - 3)
    assert (s.xfrm, s.xfrmmask) == (7, 0xFFFF_FFFF_FFFF_FF1B)
    assert (s.miscselect, s.miscmask, s.isvfamilyid.hex()) == (0, 0, family)

    status, out, _ = run(capfd, "inspect", "--json", path, signature)
    assert status == 0
    of_stream, of_signature = json.loads(out)
    assert of_stream["mrenclave"] == mrenclave
    assert of_stream["sigstruct"] == of_signature["sigstruct"]
    assert of_stream["sigstruct_file"] == str(signature)
    assert of_signature["sigstruct"]["date"] == "2024-02-29"
    assert of_signature["sigstruct"]["attributes"] == {
        "value": "0x86",
        "names": ["DEBUG", "MODE64BIT", "KSS"],
        "mask": "0xfffffffffffffffd",
    }
    assert of_signature["sigstruct"]["xfrm"]["names"] == ["x87", "SSE", "AVX"]
    modulus = subprocess.run(
        ["openssl", "rsa", "-in", KEY, "-noout", "-modulus"], capture_output=True, check=True
    ).stdout.decode()
    assert f"Modulus={of_signature['sigstruct']['modulus'].upper()}\n" == modulus
    assert [
        (r["offset"], r["pages"], r["type"], r["perm"], r["measured"]) for r in of_stream["layout"]
    ] == [
        (0, 1, "TCS", "---", "yes"),
        (0x1000, 2, "REG", "r-x", "yes"),
        (0x4000, 1, "REG", "rw-", "no"),
    ]
    status, out, _ = run(capfd, "inspect", path)
    assert status == 0
    for text in (mrenclave, "as SIGSTRUCT says", "valid (RSA-3072", "2024-02-29", "32 KiB"):
        assert text in out


def test_what_does_not_hold(
    capfd: pytest.CaptureFixture[str], stream: tuple[Path, str], tmp_path: Path
) -> None:
    path, _ = stream
    other, forged = tmp_path / "other.sig", tmp_path / "forged.sig"
    other.write_bytes(elves.signed("11" * 32))
    status, out, _ = run(capfd, "inspect", "--sigstruct", other, path)
    assert status == 1
    assert "SIGSTRUCT DISAGREES" in out
    assert "WRONG: what is added measures" in out
    buf = bytearray(other.read_bytes())
    buf[1040] ^= 1  # Q1
    forged.write_bytes(buf)
    status, out, _ = run(capfd, "inspect", forged)
    assert status == 1
    assert "NOT VALID" in out
    assert "Q1 is not floor(S^2 / M)" in out
    buf[0] = 7
    forged.write_bytes(buf)
    status, out, _ = run(capfd, "inspect", forged)
    assert status == 1
    assert "HEADER is not the constant" in out


def test_the_example_by_its_toml_file(
    capfd: pytest.CaptureFixture[str], hello: Path, tmp_path: Path, softsgx: Softsgx
) -> None:
    # What a C program with OpenSSL measured, and the loader under a device.
    for name in ("enclave.bin", "enclave.sig", "enclave.elf", "hello"):
        shutil.copy(hello / name, tmp_path)
    spec = tmp_path / "enclave.toml"
    shutil.copy(ROOT / "examples" / "hello" / "enclave.toml", spec)
    theirs = (tmp_path / "enclave.sig").read_bytes()[960:992].hex()
    assert run(capfd, "measure", spec) == (0, f"{theirs}\n", "")
    status, _, _ = run(
        capfd, "sign", "--key", KEY, "-o", tmp_path / "enclave.sig", "--isvprodid", 1, spec
    )
    assert status == 0
    done = softsgx("--", tmp_path / "hello", "you")
    assert done.stdout == "the enclave says: hello, you\n"
    # The pages of the ELF file, where a TCS enters at a symbol.
    spec.write_text(
        '[[add]]\nelf = "enclave.elf"\noffset = 0x10000\n'
        '[[add]]\ntcs = {entry = "enclave_entry"}\noffset = 0x8000'
    )
    status, out, _ = run(capfd, "measure", "--json", spec)
    assert status == 0
    assert json.loads(out)["size"] == 0x20000
    status, _, err = run(capfd, "measure", "-o", tmp_path / "a.sgxs", spec)
    assert status == 2
    assert "pages go upwards" in err
    assert not (tmp_path / "a.sgxs").exists()


def test_the_sdks_elf_files(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for path, mrenclave in (elves.intel_elf(tmp_path), elves.openenclave_elf(tmp_path)):
        assert run(capfd, "measure", path) == (0, f"{mrenclave}\n", "")
        streamed = tmp_path / "of-it.sgxs"
        assert run(capfd, "measure", "-o", streamed, path)[0] == 0
        assert run(capfd, "measure", streamed) == (0, f"{mrenclave}\n", "")
        status, out, _ = run(capfd, "inspect", path)
        assert status == 0
        assert f"{mrenclave}, as SIGSTRUCT says" in out
        assert "heap, not measured" in out


MANIFEST = """
[loader]
entrypoint = "file:/usr/lib/gramine/libsysdb.so"
[sgx]
enclave_size = "256M"
max_threads = 4
isvprodid = 3
isvsvn = 4
debug = false
trusted_files = [{uri = "file:a", sha256 = "00"}]
"""


def test_gramines_manifest(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = tmp_path / "app.manifest.sgx"
    manifest.write_text(MANIFEST)
    assert "none beside it" in run(capfd, "inspect", manifest)[1]
    (tmp_path / "app.sig").write_bytes(elves.signed("22" * 32, isvprodid=3, isvsvn=5))
    status, out, _ = run(capfd, "inspect", manifest)
    assert status == 1
    assert "isvsvn is 4 in the manifest and 5 in SIGSTRUCT" in out
    (tmp_path / "app.sig").write_bytes(elves.signed("22" * 32, isvprodid=3, isvsvn=4))
    status, out, _ = run(capfd, "inspect", manifest)
    assert status == 0
    assert "256 MiB" in out


def test_broken_files_are_one_line_each(
    capfd: pytest.CaptureFixture[str], stream: tuple[Path, str], tmp_path: Path
) -> None:
    path, _ = stream
    names = {
        "cut.sgxs": path.read_bytes()[:100],
        "cut.sig": elves.signed("33" * 32)[:-1],
        "empty": b"",
        "zeros": bytes(64),
        "elf32": b"\x7fELF\x01\x01\x01" + bytes(60),
        "elf-arm": b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xb7\0" + bytes(60),
        "elf-cut": b"\x7fELF\x02\x01\x01",
        "text": b"[package]\nname = 1\n",
    }
    for name, data in names.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe")
    files = [*names, "pipe", ".", "missing", "/dev/null", "/bin/sh", "a\0b"]
    for command in ("inspect", "measure"):
        for name in files:
            status, out, err = run(capfd, command, name if name[0] == "/" else f"{tmp_path}/{name}")
            assert status == 2, (command, name, err)
            assert out == ""
            (line,) = err.splitlines()
            assert line.startswith("softsgx: ")
            assert "bug" not in line
    status, out, _ = run(capfd, "inspect", "--json", tmp_path / "empty", path)
    assert status == 2
    broken, good = json.loads(out)
    assert broken["error"].endswith("an empty file")
    assert good["format"] == "SGXS stream"
    unsized = tmp_path / "unsized.sgxs"
    unsized.write_bytes(b"UNSIZED\0" + path.read_bytes()[8:])
    status, out, _ = run(capfd, "inspect", unsized)
    assert (status, "unsized" in out) == (0, True)


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["inspect"], "needs a file"),
        (["inspect", "--colour", "x"], "no option --colour"),
        (["inspect", "x", "--sigstruct"], "--sigstruct needs a value"),
        (["measure"], "measure needs one file"),
        (["measure", "a", "b"], "takes one file"),
        (["measure", "-o"], "-o needs a value"),
        (["sign", "x"], "needs --key"),
        (["sign", "--key", KEY, "-o", "s"], "takes one file"),
        (["sign", "--key", KEY, "-o", "s", "--mrenclave", "11" * 32, "x"], "takes one file"),
        (["sign", "--key", KEY, "-o", "s", "--mrenclave", "12"], "not 32 bytes"),
        (["sign", "--key", KEY, "-o", "s", "--isvsvn", "65536", "x"], "more than the 16 bits"),
        (["sign", "--key", KEY, "-o", "s", "--isvsvn", "-1", "x"], "no number"),
        (["sign", "--key", KEY, "-o", "s", "--isvsvn", "010_0", "x"], "no number"),
        (["sign", "--key", KEY, "-o", "s", "--date", "2024-02-30", "x"], "no date"),
        (["sign", "--key", KEY, "-o", "s", "--isvfamilyid", "11" * 16, "x"], "needs KSS"),
        (["sign", "--key", KEY, "-o", "s", "--vendor", "1", "--mrenclave", "11" * 32], "VENDOR"),
        (["sign", "--key", "README", "-o", "s", "--mrenclave", "11" * 32], "README: "),
        (["sign", "--key", KEY, "-o", "no/s", "--mrenclave", "11" * 32], "no/s: No such file"),
        (["sign", "--new-key", "k", "x"], "signs nothing"),
    ],
)
def test_mistakes(
    args: list[str],
    complaint: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capfd, *args)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert complaint in line
    assert os.listdir(tmp_path) == []


def test_a_key_whose_numbers_do_not_belong_together(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = ["openssl", "rsa", "-in", KEY, "-traditional", "-outform", "DER"]
    der = subprocess.run(text, capture_output=True, check=True).stdout
    for at in (20, 300, 500, 700, 1000, 1300, 1500, len(der) - 3):  # n, e, d, p, q and the rest
        broken = bytearray(der)
        broken[at] ^= 0x10
        encoded = base64.encodebytes(broken).decode()
        (tmp_path / "k.pem").write_text(
            f"-----BEGIN RSA PRIVATE KEY-----\n{encoded}-----END RSA PRIVATE KEY-----\n"
        )
        status, _, err = run(
            capfd,
            "sign",
            "--key",
            tmp_path / "k.pem",
            "-o",
            tmp_path / "s",
            "--mrenclave",
            "1" * 64,
        )
        assert status in (0, 2)
        if status:
            (line,) = err.splitlines()
            assert "k.pem: the signing key" in line
        else:  # what is wrong is not used
            assert sigstruct.check_signature((tmp_path / "s").read_bytes()) is None


def test_a_new_key_signs_and_is_not_written_over(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, signature = tmp_path / "key.pem", tmp_path / "s.sig"
    assert run(capfd, "sign", "--new-key", key) == (0, "", "")
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    assert run(capfd, "sign", "--new-key", key)[0] == 2
    assert key.read_bytes() == before
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1709164800")
    assert run(capfd, "sign", "--key", key, "-o", signature, "--mrenclave", "11" * 32)[0] == 0
    first = signature.read_bytes()
    assert sigstruct.parse(first).date == 0x20240229
    assert run(capfd, "sign", "--key", key, "-o", signature, "--mrenclave", "11" * 32)[0] == 0
    assert signature.read_bytes() == first
