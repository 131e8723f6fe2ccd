"""``softsgx attest`` as a user calls it: documents, a check, settings that stay, mistakes."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from cryptography import x509

from softsgx.attest.platform import QE
from softsgx.attest.quoting import Quoting
from softsgx.cli.main import main
from softsgx.host.platform import load_platform
from softsgx.sdm.quote import QUOTE_HEADER
from softsgx.sgx.report import ereport
from tests.command import PATIENCE, Softsgx

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def quoted(tmp_path: Path) -> Path:
    """A quote of this state's device; its REPORT is beside it."""
    quoting = Quoting(load_platform())
    report = ereport(QE, quoting.target_info, b"d" * 64, quoting.platform.root, bytes(32))
    (tmp_path / "report").write_bytes(report)
    (tmp_path / "quote").write_bytes(quoting.quote(report))
    return tmp_path / "quote"


def test_files_in_and_out(quoted: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["attest", "target-info"]) == 0
    assert capsysbinary.readouterr().out == Quoting(load_platform()).target_info
    assert main(["attest", "quote", str(quoted.with_name("report"))]) == 0
    assert capsysbinary.readouterr().out == quoted.read_bytes()


def test_a_quote_is_accepted_and_told(quoted: Path, capsys: Capture) -> None:
    assert main(["attest", "verify", str(quoted)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "accepted: UpToDate"
    assert f"mrenclave {QE.mrenclave.hex()}" in lines
    assert f"reportdata {'64' * 64}" in lines


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (["--tcb-status", "out-of-date"], 0, "accepted: OutOfDate\n"),
        (["--tcb-status=OutOfDateConfigurationNeeded"], 0, "OutOfDateConfigurationNeeded"),
        (["--qe-status", "outofdate"], 0, "accepted: OutOfDate\n"),
        (["--tcb-status", "revoked"], 1, "refused: "),
        (["--revoke", "pck"], 1, "CertRevoked"),
        (["--revoke", "tcb-signing", "--revoke", "pck"], 1, "CertRevoked"),
        (["--issued", "2020-01-01T00:00:00+00:00"], 1, "Expired"),
        (["--now", "1893456000"], 0, "accepted: UpToDate\n"),
        (["--issued", "1893456000", "--now", "1800000000"], 1, "future"),
    ],
)
def test_unhappy_paths(
    quoted: Path, capsys: Capture, options: list[str], status: int, text: str
) -> None:
    assert main(["attest", "verify", str(quoted), *options]) == status
    out = capsys.readouterr().out
    assert text in out
    assert status == 0 or len(out.splitlines()) == 1


def test_a_changed_quote_is_refused(quoted: Path, capsys: Capture) -> None:
    raw = bytearray(quoted.read_bytes())
    raw[QUOTE_HEADER.size] ^= 1
    quoted.write_bytes(raw)
    assert main(["attest", "verify", str(quoted)]) == 1
    assert capsys.readouterr().out.startswith("refused: ")
    quoted.write_bytes(b"nothing")
    assert main(["attest", "verify", str(quoted)]) == 1


def test_documents_on_files_do(quoted: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in ("root", "collateral"):
        assert main(["attest", name]) == 0
        (tmp_path / name).write_text(capsys.readouterr().out)
    files = ["--root", str(tmp_path / "root"), "--collateral", str(tmp_path / "collateral")]
    assert main(["attest", "verify", str(quoted), *files]) == 0
    capsys.readouterr()
    document = json.loads((tmp_path / "collateral").read_text())
    document["tcb_info"] = document["tcb_info"].replace("UpToDate", "OutOfDate")
    (tmp_path / "collateral").write_text(json.dumps(document))
    assert main(["attest", "verify", str(quoted), *files]) == 1
    assert "Signature is invalid for tcb_info" in capsys.readouterr().out


def test_another_states_root_accepts_nothing_of_this_one(
    quoted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("SOFTSGX_STATE_DIR", str(tmp_path / "other"))
    assert main(["attest", "verify", str(quoted)]) == 1
    assert "certificate" in capsys.readouterr().out
    assert main(["attest", "quote", str(tmp_path / "report")]) == 2
    assert "SGX_QL_INVALID_REPORT" in capsys.readouterr().err


def test_the_root_is_the_same_in_every_form(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["attest", "root"]) == 0
    pem = x509.load_pem_x509_certificate(capsysbinary.readouterr().out)
    assert main(["attest", "root", "--der"]) == 0
    assert x509.load_der_x509_certificate(capsysbinary.readouterr().out) == pem


def test_the_platform_is_set_and_stays(capsys: Capture) -> None:
    assert main(["attest", "platform"]) == 0
    own = capsys.readouterr().out
    assert main(["attest", "platform", "--fmspc", "00906ED50000"]) == 0
    assert main(["attest", "platform", "--ppid", "ab" * 16]) == 0
    capsys.readouterr()
    assert main(["attest", "platform"]) == 0
    assert capsys.readouterr().out == f"fmspc 00906ed50000\nppid {'ab' * 16}\n"
    assert main(["attest", "collateral"]) == 0
    assert '\\"fmspc\\":\\"00906ED50000\\"' in capsys.readouterr().out
    assert main(["attest", "platform", "--ppid", "", "--fmspc="]) == 0
    assert capsys.readouterr().out == own


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["nothing"], "attest has no 'nothing'"),
        (["root", "file"], "attest root takes no argument 'file'"),
        (["verify"], "attest verify needs one file"),
        (["verify", "/nonexistent"], "/nonexistent: No such file"),
        (["root", "--tls"], "no option --tls; see 'softsgx attest root --help'"),
        (["collateral", "--tcb-status"], "--tcb-status needs a value"),
        (["collateral", "--tcb-status", "fine"], "fine: no TCB status; there are UpToDate"),
        (["collateral", "--qe-status", "SWHardeningNeeded"], "no TCB status"),
        (["collateral", "--revoke", "root"], "--revoke root: there are pck"),
        (["collateral", "--issued", "soon"], "--issued soon: no time"),
        (["collateral", "--issued", "9" * 30], "no time"),
        (["platform", "--fmspc", "12"], "'12' is not 12 hexadecimal digits"),
        (["platform", "--ppid", "xy"], "'xy' is not 32 hexadecimal digits"),
        (["pccs", "--listen", "8081"], "write ADDRESS:PORT"),
        (["pccs", "--listen", "127.0.0.1:99999"], "write ADDRESS:PORT"),
        (["pccs", "--tcb-status", "bad"], "no TCB status"),
        (["verify", "/dev/null", "--root", "/dev/null"], "/dev/null: no certificate"),
        (["verify", "/dev/null", "--collateral", "/dev/null"], "/dev/null: not what"),
        (["verify", "/dev/null", "--collateral", "/dev/null", "--revoke", "pck"], "not both"),
        (["quote", "/dev/null"], "a REPORT has 432 bytes, not 0"),
    ],
)
def test_mistakes_are_one_line(capsys: Capture, args: list[str], text: str) -> None:
    assert main(["attest", *args]) == 2
    err = capsys.readouterr().err
    assert text in err
    assert len(err.splitlines()) == 1


def test_a_platform_file_of_somebody_elses_is_told(state_directory: Path, capsys: Capture) -> None:
    load_platform()
    for text in ("no JSON", "[]", '{"fmspc": "12"}', '{"fmspc": 5}', '{"x": "12"}'):
        (state_directory / "platform.json").write_text(text)
        assert main(["attest", "root"]) == 2
        assert "platform.json" in capsys.readouterr().err


def test_without_the_extra_a_line_names_it(softsgx: Softsgx, tmp_path: Path) -> None:
    (tmp_path / "dcap_qvl.py").write_text("raise ImportError")
    done = softsgx.command("attest", "verify", "/dev/null", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr == ("softsgx: attest verify needs dcap-qvl: pip install 'softsgx[attest]'\n")


@pytest.mark.parametrize("tls", [False, True])
def test_a_pccs_says_where_it_is_and_ends_when_it_is_told(tmp_path: Path, tls: bool) -> None:
    argv = [sys.executable, "-m", "softsgx", "attest", "pccs", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*argv, *(["--tls"] if tls else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as pccs:
        assert pccs.stdout
        url = pccs.stdout.readline().strip()
        assert url.startswith(f"http{'s' if tls else ''}://127.0.0.1:")
        root = Quoting(load_platform()).certificates.root
        trusting = ssl.create_default_context(cadata=root.chain) if tls else None
        with urlopen(f"{url}rootcacrl", timeout=PATIENCE, context=trusting) as answer:
            crl = x509.load_der_x509_crl(bytes.fromhex(answer.read().decode()))
        assert crl.issuer == root.certificate.subject
        pccs.send_signal(signal.SIGINT)
        assert pccs.wait(PATIENCE) == -signal.SIGINT
        assert pccs.stderr
        assert pccs.stderr.read() == ""
