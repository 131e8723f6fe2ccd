"""``softsgx attest``: root and collateral of this device's quotes, a check of one, a PCCS."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from softsgx.cli.options import Given, given, print_json
from softsgx.errors import SoftsgxError, UsageError

__all__ = ["SUBCOMMANDS", "attest"]

HELP = """\
usage: softsgx attest root [--der]               the certificate that everything hangs on
       softsgx attest collateral [conditions]    what a verifier needs, as dcap-qvl's JSON
       softsgx attest verify [options] QUOTE     whether a verifier accepts a quote
       softsgx attest pccs [options]             the collateral, served
       softsgx attest quote REPORT               the quote of a REPORT (432 bytes)
       softsgx attest target-info                TARGETINFO that such a REPORT is made for
       softsgx attest platform [options]         what the platform says of itself

The quotes of this device's enclaves, which prove nothing: whoever can read its secret can sign.
Files are "-" for standard input; what is binary goes to standard output.

verify has dcap-qvl, which is not softsgx's, check the quote (needs softsgx[attest]). The status is
0 where it accepts, with the TCB's status in what is printed, 1 if not.
pccs serves the collateral over HTTP as Intel's interface of version 4, until it is ended.

Of root:
  --der                DER instead of PEM

Of verify, and what it takes if they are not given:
  --root FILE          the root's certificate, PEM or DER (softsgx's own)
  --collateral FILE    as 'collateral' prints it (made anew, under the conditions below)
  --now TIME           when it is checked
  --json               what is said of the quote, for programs ('platform' has it, too)

Of pccs:
  --listen ADDRESS:PORT  default 127.0.0.1:8081; port 0: any, printed
  --tls                HTTPS, under the same root

Of platform, which stay until they are given again:
  --fmspc HEX          6 bytes; empty: what the secret gives
  --ppid HEX           16 bytes

Conditions of the collateral ('collateral', 'verify' and 'pccs'):
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
SUBCOMMANDS: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "root": (0, (), ("--der",)),
    "collateral": (0, _CONDITIONS, ()),
    "verify": (1, ("--root", "--collateral", "--now", *_CONDITIONS), ("--json",)),
    "pccs": (0, ("--listen", *_CONDITIONS), ("--tls",)),
    "quote": (1, (), ()),
    "target-info": (0, (), ()),
    "platform": (0, ("--fmspc", "--ppid"), ("--json",)),
}


class _Options:
    """What was given to one of the commands."""

    def __init__(self, found: Given) -> None:
        self.given, self.files = found, found.words
        self.values = {name: values[-1] for name, values in found.values.items()}

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

    def conditions(self, at: int | None = None) -> Any:
        """What the collateral is to say."""
        from softsgx.attest.collateral import REVOCABLE, Conditions, status_named

        revoked = self.given.values.get("--revoke", [])
        for what in revoked:
            if what not in REVOCABLE:
                raise UsageError(f"--revoke {what}: there are {', '.join(REVOCABLE)}")
        return Conditions(
            self.time("--issued") if at is None or "--issued" in self.values else at,
            status_named(self.values.get("--tcb-status", "UpToDate")),
            status_named(self.values.get("--qe-status", "UpToDate"), _QE_STATUSES),
            frozenset(revoked),
        )


def attest(args: list[str]) -> int:
    """Run one of the commands of `HELP`. Raises UsageError."""
    if not args:
        raise UsageError(
            f"attest needs one of {', '.join(SUBCOMMANDS)}; see 'softsgx attest --help'"
        )
    if args[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    name, rest = args[0], args[1:]
    if name not in SUBCOMMANDS:
        raise UsageError(f"attest has no {name!r}; see 'softsgx attest --help'")
    files, takes, flags = SUBCOMMANDS[name]
    many, what = (files, files), "one file" if files else ""
    empty = ("--fmspc", "--ppid")
    found = given(f"attest {name}", HELP, rest, flags, takes, many, what, empty=empty)
    if found is None:
        return 0
    command = {
        "root": _root, "collateral": _collateral, "verify": _verify, "pccs": _pccs,
        "quote": _quote, "target-info": _target_info, "platform": _platform,
    }[name]  # fmt: skip
    return command(_Options(found))


def _quoting() -> Any:
    from softsgx.attest.quoting import Quoting
    from softsgx.host.platform import load_platform

    return Quoting(load_platform())


def _root(options: _Options) -> int:
    root = _quoting().certificates.root
    return _write(root.der if "--der" in options.given.flags else root.chain.encode())


def _collateral(options: _Options) -> int:
    certificates = _quoting().certificates
    from softsgx.attest.collateral import Collateral

    print_json(Collateral(certificates, options.conditions()).document())
    return 0


def _quote(options: _Options) -> int:
    return _write(_quoting().quote(_read(options.files[0])))


def _target_info(options: _Options) -> int:  # noqa: ARG001
    return _write(_quoting().target_info)


def _platform(options: _Options) -> int:
    from softsgx.host.platform import load_platform, set_platform

    wanted = {name.lstrip("-"): value for name, value in options.values.items()}
    platform = set_platform(wanted) if wanted else load_platform()
    facts = {"fmspc": platform.fmspc.hex(), "ppid": platform.ppid.hex()}
    if "--json" in options.given.flags:
        print_json(facts)
    else:
        print("\n".join(f"{name} {value}" for name, value in facts.items()))
    return 0


def _pccs(options: _Options) -> int:
    from softsgx.services.pccs import Server

    host, colon, port = options.values.get("--listen", "127.0.0.1:8081").rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UsageError(f"--listen {host}{colon}{port}: write ADDRESS:PORT, like 127.0.0.1:8081")
    options.conditions(0)  # mistakes are told before anything is served
    certificates = _quoting().certificates
    host = host.strip("[]")
    with Server(
        host, int(port), certificates, options.conditions, tls="--tls" in options.given.flags
    ) as s:
        print(s.url, flush=True)
        s.serve_forever()
    return 0


def _verify(options: _Options) -> int:
    try:
        import dcap_qvl
    except ImportError:
        raise UsageError("attest verify needs dcap-qvl: pip install 'softsgx[attest]'") from None
    from softsgx.attest.collateral import Collateral
    from softsgx.sdm.quote import parse_quote

    raw, as_json = _read(options.files[0]), "--json" in options.given.flags
    certificates = _quoting().certificates
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
        why = " ".join("; ".join(str(error).split("\n\n")).split("\n"))
        print_json({"accepted": False, "why": why}) if as_json else print(f"refused: {why}")
        return 1
    facts = _facts(quote)
    if as_json:
        advisories = list(report.advisory_ids)
        print_json({"accepted": True, "status": report.status, "advisories": advisories, **facts})
        return 0
    print(f"accepted: {report.status}")
    if report.advisory_ids:
        print(f"advisories {' '.join(report.advisory_ids)}")
    for name, value in facts.items():
        print(name, f"{value:#x}" if name in ("attributes", "xfrm") else value)
    return 0


def _facts(quote: Any) -> dict[str, str | int]:
    body = quote.body
    return {
        "mrenclave": body.mrenclave.hex(),
        "mrsigner": body.mrsigner.hex(),
        "isvprodid": body.isvprodid,
        "isvsvn": body.isvsvn,
        "attributes": body.attributes,
        "xfrm": body.xfrm,
        "reportdata": body.reportdata.hex(),
    }


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
