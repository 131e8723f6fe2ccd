"""A sweep's results in words."""

from __future__ import annotations

from typing import Any

__all__ = ["first_failure"]


def first_failure(result: dict[str, Any]) -> str:
    """Where a run first failed: call, answer and the rule that decided; "" where it did not."""
    first = result["first"]
    if first is None:
        return str(result["said"]) if result["outcome"] != "ok" else ""
    by = f"{first['law']} {first['rule']}".strip()
    why = ": ".join(part for part in (first["why"], by) if part)
    return f"{first['what']} {first['answer']}" + (f" ({why})" if why else "")
