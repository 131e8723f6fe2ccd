"""What a recorded run was hit by, as rules that hit another run the same."""

from __future__ import annotations

import json

from softsgx.errors import UsageError

__all__ = ["rules_of_recording"]


def rules_of_recording(path: str, text: str) -> list[str]:
    """The faults of the last run in a recording, each as a rule that fires once.

    Raises UsageError where there was none.
    """
    found: list[str] = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue  # cut short
        if not isinstance(event, dict):
            continue
        if "softsgx" in event:
            found = []
        elif event.get("event") == "inject" and isinstance(event.get("exact"), str):
            found.append(event["exact"])
    if not found:
        raise UsageError(f"--inject {path}: a recording of a run that no fault was injected into")
    return found
