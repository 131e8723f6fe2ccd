"""``softsgx attest``: root and collateral of this device's quotes, a check of one, a PCCS."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from softsgx.attest.collateral import REVOCABLE, Collateral, Conditions, status_named
from softsgx.attest.quoting import Quoting
from softsgx.errors import SoftsgxError, UsageError
from softsgx.host.platform import load_platform, set_platform

__all__ = ["attest"]

HELP = """\
usage: softsgx attest root [--der]             the certificate that everything hangs on
       softsgx attest collateral [conditions]  what a verifier needs, as dcap-qvl's JSON
       softsgx attest verify QUOTE [--root FILE] [--collateral FILE] [--now TIME] [conditions]
       softsgx attest pccs [--listen ADDRESS:PORT] [--tls] [conditions]
       softsgx attest quote REPORT             the quote of a REPORT (432 bytes)
       softsgx attest target-info              TARGETINFO that such a REPORT is made for
       softsgx attest platform [--fmspc HEX] [--ppid HEX]

The quotes of this device's enclaves, which prove nothing: whoever can read its secret can sign.
Files are "-" for standard input; what is binary goes to standard output.

verify      dcap-qvl, which is not softsgx's, checks the quote (needs softsgx[attest]). The
            status is 0 where it accepts, with the TCB's status in what is printed, 1 if not
pccs        serves the collateral over HTTP as Intel's interface of version 4, until ended
            (default 127.0.0.1:8081; port 0: any, printed); --tls: HTTPS, under the same root
platform    FMSPC (6 bytes) and PPID (16), which stay; an empty one: what the secret gives

conditions of the collateral:
  --tcb-status STATUS  of the platform: up-to-date (default), out-of-date, revoked,
                       sw-hardening-needed, configuration-needed, …
  --qe-status STATUS   of its quoting enclave: up-to-date, out-of-date, revoked
  --revoke WHAT        pck, platform-ca or tcb-signing is in a revocation list; can be repeated
  --issued TIME        when it was issued; it is valid for 30 days
TIME is in seconds since 1970, or as 2026-01-31T12:00:00+00:00; by default now.
"""
_QE_STATUSES = ("UpToDate", "OutOfDate", "Revoked")
_CONDITIONS = ("--tcb-status", "--qe-status", "--revoke", "--issued")
# By command: how many files it takes, its options with a value, those without.
_COMMANDS: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "root": (0, (), ("--der",)),
    "collateral": (0, _CONDITIONS, ()),
    "verify": (1, ("--root", "--collateral", "--now", *_CONDITIONS), ()),
    "pccs": (0, ("--listen", *_CONDITIONS), ("--tls",)),
    "quote": (1, (), ()),
    "target-info": (0, (), ()),
    "platform": (0, ("--fmspc", "--ppid"), ()),
}


class _Options:
    """What was given: files, and values by option; those of --revoke in order."""

    def __init__(self, command: str, args: list[str]) -> None:
        files, takes, flags = _COMMANDS[command]
        self.values: dict[str, str] = {}
        self.revoked: list[str] = []
        self.files: list[str] = []
        rest = iter(args)
        for arg in rest:
            name, equals, value = arg.partition("=")
            if name in takes:
                given = value if equals else next(rest, None)
                if given is None:
                    raise UsageError(f"{name} needs a value; see 'softsgx attest --help'")
                if name == "--revoke":
                    self.revoked.append(given)
                self.values[name] = given
            elif arg in flags:
                self.values[arg] = ""
            elif arg.startswith("-") and arg != "-":
                raise UsageError(f"no option {arg} of '{command}'; see 'softsgx attest --help'")
            else:
                self.files.append(arg)
        if len(self.files) != files:
            wanted = "one file" if files else "no file"
            raise UsageError(f"attest {command} takes {wanted}; see 'softsgx attest --help'")

    def time(self, name: str) -> int:
        """A time in seconds, now if it was not given."""
        text = self.values.get(name)
        if text is None:
            return int(time.time())
        from datetime import datetime

        try:
            seconds = (
                int(text) if text.isdecimal() else int(datetime.fromisoformat(text).timestamp())
            )
            datetime.fromtimestamp(seconds)
        except (ValueError, OverflowError, OSError):
            seconds = -1
        if not 0 <= seconds < 253370764800:  # the year 9999: certificates know no later
            raise UsageError(f"{name} {text}: no time; write 2026-01-31T12:00:00+00:00 or seconds")
        return seconds

    def conditions(self, at: int | None = None) -> Conditions:
        """What the collateral is to say."""
        for what in self.revoked:
            if what not in REVOCABLE:
                raise UsageError(f"--revoke {what}: there are {', '.join(REVOCABLE)}")
        return Conditions(
            self.time("--issued") if at is None or "--issued" in self.values else at,
            status_named(self.values.get("--tcb-status", "UpToDate")),
            status_named(self.values.get("--qe-status", "UpToDate"), _QE_STATUSES),
            frozenset(self.revoked),
        )


def attest(args: list[str]) -> int:
    """Run one of the commands of `HELP`. Raises UsageError."""
    if not args or {"-h", "--help"} & set(args):
        print(HELP, end="", file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    name, rest = args[0], args[1:]
    if name not in _COMMANDS:
        raise UsageError(f"attest has no {name!r}; see 'softsgx attest --help'")
    options = _Options(name, rest)
    command = {
        "root": _root, "collateral": _collateral, "verify": _verify, "pccs": _pccs,
        "quote": _quote, "target-info": _target_info, "platform": _platform,
    }[name]  # fmt: skip
    return command(options)


def _root(options: _Options) -> int:
    root = Quoting(load_platform()).certificates.root
    return _write(root.der if "--der" in options.values else root.chain.encode())


def _collateral(options: _Options) -> int:
    certificates = Quoting(load_platform()).certificates
    document = Collateral(certificates, options.conditions()).document()
    print(json.dumps(document, indent=1))
    return 0


def _quote(options: _Options) -> int:
    return _write(Quoting(load_platform()).quote(_read(options.files[0])))


def _target_info(options: _Options) -> int:  # noqa: ARG001
    return _write(Quoting(load_platform()).target_info)


def _platform(options: _Options) -> int:
    wanted = {name.lstrip("-"): value for name, value in options.values.items()}
    platform = set_platform(wanted) if wanted else load_platform()
    print(f"fmspc {platform.fmspc.hex()}\nppid {platform.ppid.hex()}")
    return 0


def _pccs(options: _Options) -> int:
    from softsgx.services.pccs import Server

    host, colon, port = options.values.get("--listen", "127.0.0.1:8081").rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UsageError(f"--listen {host}{colon}{port}: write ADDRESS:PORT, like 127.0.0.1:8081")
    options.conditions(0)  # mistakes are told before anything is served
    certificates = Quoting(load_platform()).certificates
    host = host.strip("[]")
    with Server(
        host, int(port), certificates, options.conditions, tls="--tls" in options.values
    ) as s:
        print(s.url, flush=True)
        s.serve_forever()
    return 0


def _verify(options: _Options) -> int:
    try:
        import dcap_qvl
    except ImportError:
        raise UsageError("attest verify needs dcap-qvl: pip install 'softsgx[attest]'") from None
    from softsgx.sdm.quote import parse_quote

    raw = _read(options.files[0])
    certificates = Quoting(load_platform()).certificates
    now = options.time("--now")
    if "--collateral" in options.values:
        if set(options.values) & set(_CONDITIONS):
            raise UsageError("--collateral has its own conditions; give it or others, not both")
        text = _read(options.values["--collateral"]).decode(errors="replace")
    else:
        text = json.dumps(Collateral(certificates, options.conditions(now)).document())
    root = certificates.root.der
    if "--root" in options.values:
        root = _der(_read(options.values["--root"]), options.values["--root"])
    try:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(text)
    except ValueError as error:
        name = options.values.get("--collateral", "")
        raise UsageError(f"{name}: not what 'softsgx attest collateral' prints: {error}") from None
    try:
        report = dcap_qvl.verify_with_root_ca(raw, collateral, root, now)
        quote = parse_quote(raw)
    except (ValueError, SoftsgxError) as error:
        print(f"refused: {'; '.join(str(error).split(chr(10) + chr(10)))}".replace("\n", " "))
        return 1
    print(f"accepted: {report.status}")
    if report.advisory_ids:
        print(f"advisories {' '.join(report.advisory_ids)}")
    for line in _facts(quote):
        print(line)
    return 0


def _facts(quote: Any) -> list[str]:
    body = quote.body
    return [
        f"mrenclave {body.mrenclave.hex()}",
        f"mrsigner {body.mrsigner.hex()}",
        f"isvprodid {body.isvprodid}",
        f"isvsvn {body.isvsvn}",
        f"attributes {body.attributes:#x}",
        f"xfrm {body.xfrm:#x}",
        f"reportdata {body.reportdata.hex()}",
    ]


def _der(raw: bytes, name: str) -> bytes:
    """A certificate's DER, of PEM or DER."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    pem = b"-----BEGIN" in raw
    try:
        loaded = x509.load_pem_x509_certificate(raw) if pem else x509.load_der_x509_certificate(raw)
    except ValueError:
        raise UsageError(f"{name}: no certificate, neither PEM nor DER") from None
    return loaded.public_bytes(Encoding.DER)


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        with open(name, "rb") as f:
            return f.read()
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None


def _write(data: bytes) -> int:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    return 0
