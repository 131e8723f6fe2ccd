"""How a crash in an enclave is told: the same lines at once, in `softsgx show` and on a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softsgx.sdm import leaves as sdm
from softsgx.sgx.epcm import page_text

__all__ = ["crash_lines"]

_SHOWN = ("present", "pt", "perm", "pending", "modified", "pr")
_ACCESS = {0: " read", 1: " write", 2: " fetch"}
_A_LINE = 5


def crash_lines(event: dict[str, Any]) -> Iterator[str]:
    """The lines of an event ``crash``: what it was first, then what is known of it."""
    vector = event["vector"]
    what = sdm.VECTOR_NAMES.get(vector, f"vector {vector}")
    if vector == sdm.VECTOR_PF:
        what += f"{_ACCESS.get(event['access'], '')} {event['code']:#x} at {event['place']}"
    yield f"crash in an enclave: {what}"
    if event["why"]:
        yield f"why: {event['why']}" + (f" (rule {event['rule']})" if event["rule"] else "")
    if event["page"] is not None:
        yield f"page: {page_text({k: n for k, n in event['page'].items() if k in _SHOWN})}"
    for n, frame in enumerate(event["frames"]):
        yield f"#{n} {frame}"
    values = [f"{name}={value:#x}" for name, value in event["ssa"].items()]
    yield from (" ".join(values[n : n + _A_LINE]) for n in range(0, len(values), _A_LINE))
    if event["symbols"]:
        yield f"symbols: {event['symbols']}"
    else:
        yield "no ELF file with this code was found: --symbols FILE or FILE@OFFSET names it"
