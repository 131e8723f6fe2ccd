"""``softsgx sign``: a SIGSTRUCT of an enclave."""

from __future__ import annotations

import os
import re
import time
from typing import Any

from softsgx.cli.options import given, print_json
from softsgx.errors import UsageError

__all__ = ["sign"]

HELP = """\
usage: softsgx sign --key KEY.pem -o FILE.sig [options] FILE
       softsgx sign --new-key KEY.pem

Write the SIGSTRUCT (1808 bytes) of an .sgxs stream or of another file that 'softsgx measure' takes;
print MRENCLAVE and MRSIGNER. The key is RSA-3072 with exponent 3, as PEM.

  --key KEY.pem         the key
  -o, --output FILE.sig  the SIGSTRUCT
  --new-key KEY.pem     make a key; an existing file is left alone
  --mrenclave HEX       sign this measurement; no FILE then
  --date DATE           2026-01-31 (default: SOURCE_DATE_EPOCH, else today)
  --isvprodid N, --isvsvn N, --swdefined N, --vendor N
                        default 0; Intel's vendor is 0x8086
  --isvfamilyid HEX, --isvextprodid HEX
                        16 bytes; they need KSS in the attributes
  --debug               DEBUG is set, and out of the mask: the enclave may be loaded with it or not
  --attributes N        default 4 (MODE64BIT)
  --xfrm N              default 3 (x87 and SSE)
  --miscselect N        default 0
  --attribute-mask N, --xfrm-mask N, --misc-mask N
                        default: every bit
  --json                what 'softsgx inspect --json' says of the SIGSTRUCT

Numbers are decimal or 0x… . A bit outside of a mask may be either way when the enclave is loaded.
"""
# By option: the field of SIGSTRUCT, its bits.
_NUMBERS = {
    "--isvprodid": ("isvprodid", 16),
    "--isvsvn": ("isvsvn", 16),
    "--swdefined": ("swdefined", 32),
    "--vendor": ("vendor", 32),
    "--attributes": ("attributes", 64),
    "--attribute-mask": ("attributemask", 64),
    "--xfrm": ("xfrm", 64),
    "--xfrm-mask": ("xfrmmask", 64),
    "--miscselect": ("miscselect", 32),
    "--misc-mask": ("miscmask", 32),
}
_HEX = {"--isvfamilyid": 16, "--isvextprodid": 16, "--mrenclave": 32}
_NAMES = ("--key", "--new-key", "-o", "--date")
_FLAGS, _SHORT = ("--debug", "--json"), {"--output": "-o"}


def sign(args: list[str]) -> int:
    """Sign an enclave. Raises UsageError."""
    options = given(
        "sign", HELP, args, _FLAGS, (*_NUMBERS, *_HEX, *_NAMES), (0, None), short=_SHORT
    )
    if options is None:
        return 0
    names, chosen = options.words, dict.fromkeys(options.flags, "")
    chosen |= {name: values[-1] for name, values in options.values.items()}
    if "--new-key" in chosen:
        if names or len(chosen) > 1:
            raise UsageError("--new-key makes a key and signs nothing")
        return _new_key(chosen["--new-key"])
    output = chosen.get("-o")
    if "--key" not in chosen or output is None:
        raise UsageError("sign needs --key KEY.pem and -o FILE.sig; see 'softsgx sign --help'")
    if len(names) != (0 if "--mrenclave" in chosen else 1):
        raise UsageError("sign takes one file, or --mrenclave; see 'softsgx sign --help'")
    fields = _fields(chosen)

    from softsgx.cli.measure import mrenclave_of
    from softsgx.images.facts import sigstruct_facts
    from softsgx.images.image import read_file, replacing, told
    from softsgx.sdm import sigstruct

    key = bytes(read_file(chosen["--key"]))
    if "--mrenclave" in chosen:
        fields["enclavehash"] = _hex("--mrenclave", chosen["--mrenclave"])
    else:
        fields["enclavehash"] = bytes.fromhex(mrenclave_of(names[0])["mrenclave"])
    signed: bytes = told(chosen["--key"], lambda: sigstruct.sign(key, **fields))
    failure = sigstruct.check_fields(signed)
    if failure is not None:
        raise UsageError(f"no processor would take it: {failure.reason}")
    with replacing(output) as file:
        file.write(signed)
    found = sigstruct_facts(signed)
    if "--json" in chosen:
        print_json(found)
    else:
        print(f"mrenclave {found['mrenclave']}\nmrsigner {found['mrsigner']}")
    return 0


def _fields(chosen: dict[str, str]) -> dict[str, Any]:
    """Fields of SIGSTRUCT by name."""
    from softsgx.sdm.leaves import ATTR_DEBUG, ATTR_KSS, ATTR_MODE64BIT, XFRM_LEGACY

    fields: dict[str, Any] = {
        "attributes": ATTR_MODE64BIT,
        "attributemask": (1 << 64) - 1,
        "xfrm": XFRM_LEGACY,
        "xfrmmask": (1 << 64) - 1,
        "miscmask": (1 << 32) - 1,
        "date": _date(chosen.get("--date")),
    }
    for option, (name, bits) in _NUMBERS.items():
        if option in chosen:
            fields[name] = _number(option, chosen[option], bits)
    if "--debug" in chosen:
        fields["attributes"] |= ATTR_DEBUG
        fields["attributemask"] &= ~ATTR_DEBUG
    for option in ("--isvfamilyid", "--isvextprodid"):
        if option in chosen:
            fields[option[2:]] = _hex(option, chosen[option])
            if any(fields[option[2:]]) and not fields["attributes"] & ATTR_KSS:
                raise UsageError(
                    f"{option} needs KSS: --attributes {fields['attributes'] | ATTR_KSS:#x}"
                )
    return fields


def _number(option: str, text: str, bits: int) -> int:
    if not re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", text, re.ASCII) or len(text) > 40:
        raise UsageError(f"{option} {text}: no number; write it as 12 or 0xc")
    number = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    if number >> bits:
        raise UsageError(f"{option} {text}: more than the {bits} bits that the field has")
    return number


def _hex(option: str, text: str) -> bytes:
    size = _HEX[option]
    if not re.fullmatch(f"[0-9a-fA-F]{{{2 * size}}}", text, re.ASCII):
        raise UsageError(f"{option} {text}: not {size} bytes as {2 * size} hexadecimal digits")
    return bytes.fromhex(text)


def _date(text: str | None) -> int:
    """SIGSTRUCT.DATE: YYYYMMDD, each digit in four bits."""
    import datetime

    if text is None:
        epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
        seconds = int(epoch) if epoch.isascii() and epoch.isdigit() else int(time.time())
        try:
            day = datetime.datetime.fromtimestamp(seconds, datetime.UTC).date()
        except (ValueError, OverflowError, OSError):
            raise UsageError(f"SOURCE_DATE_EPOCH {epoch}: no time in seconds") from None
    else:
        try:
            day = datetime.date.fromisoformat(text)
        except ValueError:
            raise UsageError(f"--date {text}: no date; write it as 2026-01-31") from None
    return int(f"{day.year:04}{day.month:02}{day.day:02}", 16)


def _new_key(name: str) -> int:
    from softsgx.sdm.sigstruct import new_key

    try:
        # Nobody else may read it, and no key that signed something is lost.
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    with open(fd, "wb") as file:
        file.write(new_key())
    return 0
