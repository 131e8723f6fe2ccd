"""A rule: ``PLACE[:CONDITION…]:FAULT[=VALUE]``, a line each.

Parsing refuses, in one line, what does not exist and what could never fire.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from softsgx.errors import UsageError
from softsgx.faults.kinds import FORBIDDEN, Fault, Place, places
from softsgx.inputs import opened

__all__ = ["Rule", "parse_rule", "read_rules"]

_MAX = 1 << 40
_WHEN = ("nth", "every", "random", "always")
_NUMBERS = ("nth", "every", "after", "total")
_EXAMPLE = "e.g. ADD_PAGES:after=3:short"


@dataclass(slots=True)
class Rule:
    """A rule and how often it was met.

    when: nth, every, random or always, with its number. after, total: pages, -1 where none is
    given. at: (file, symbol, offset) or (None, None, offset), None where none is given. signal: its
    name. seen: how often its place was met as it asks; fired: how often it was carried out.
    """

    place: Place
    fault: Fault
    value: str
    when: str = "nth"
    number: float = 1
    after: int = -1
    total: int = -1
    at: tuple[str | None, str | None, int] | None = None
    signal: str = ""
    seen: int = 0
    fired: int = 0

    def text(self, nth: int = 0) -> str:
        """The rule as it is written. nth: as one that fires at that time alone."""
        parts = [self.place.name]
        when, number = ("nth", nth) if nth else (self.when, self.number)
        if when == "always":
            parts.append("always")
        elif (when, number) != ("nth", 1):
            parts.append(f"{when}={number:g}" if when == "random" else f"{when}={int(number)}")
        pages = (("after", self.after), ("total", self.total))
        parts += [f"{name}={value}" for name, value in pages if value >= 0]
        if self.at is not None:
            file, symbol, offset = self.at
            tail = f"+{offset:#x}" if offset else ""
            parts.append(f"at={file}!{symbol}{tail}" if symbol else f"at={offset:#x}")
        if self.signal:
            parts.append(f"signal={self.signal}")
        parts.append(self.fault.name + (f"={self.value}" if self.value else ""))
        return ":".join(parts)


def parse_rule(text: str, known: dict[str, Place], design: str) -> Rule:
    """A rule of a line. known: `places` of the design. Raises UsageError."""
    where = f"--inject {text}"
    words = [word.strip() for word in text.split(":")]
    if len(words) < 2:
        raise UsageError(f"{where}: no rule, and no file; a rule is PLACE:FAULT, {_EXAMPLE}")
    place = known.get(words[0])
    if place is None:
        raise UsageError(f"{where}: {_no_place(words[0], known, design)}")
    if place.why:
        raise UsageError(f"{where}: {place.name} {place.why}")
    name, equals, value = words[-1].partition("=")
    fault = place.faults.get(name)
    if fault is None:
        raise UsageError(f"{where}: {_no_fault(place, name)}")
    rule = Rule(place, fault, _value(where, fault, equals, value))
    given: set[str] = set()
    for word in words[1:-1]:
        name = word.partition("=")[0]
        if name in given or (name in _WHEN and not given.isdisjoint(_WHEN)):
            raise UsageError(f"{where}: one of {', '.join(_WHEN)}, and each condition once")
        given.add(name)
        _condition(where, rule, word)
    if fault.name == "short":
        if rule.after == 0:
            raise UsageError(f"{where}: a call that has added nothing answers EINTR, and not 0")
        if rule.after < 0 and rule.total < 0:
            rule.after = 1
    return rule


def _no_place(name: str, known: dict[str, Place], design: str) -> str:
    from softsgx.designs.registry import DESIGNS

    for other, cls in DESIGNS.items():
        if name in places(cls()):
            return f"the design {design} has no {name}, which {other} has"
    hint = f"; there are {', '.join(known)}"
    return f"there is no place {name!r}{hint}"


def _no_fault(place: Place, name: str) -> str:
    there = f"it can give {', '.join(place.faults)}"
    why = FORBIDDEN.get((place.name, name))
    if why is not None:
        return f"{place.name} gives no {name}: {why}; {there}"
    return f"{place.name} gives no {name!r}; {there}"


def _value(where: str, fault: Fault, equals: str, value: str) -> str:
    """What stands behind the fault's ``=``."""
    if not fault.takes & {"value", "value?"}:
        if equals:
            raise UsageError(f"{where}: {fault.name} takes no value")
        return ""
    if not equals:
        if "value" in fault.takes:
            raise UsageError(f"{where}: {fault.name} needs a number of ms, like {fault.name}=10")
        return ""
    if fault.name == "suspend":
        if value != "cpusvn":
            raise UsageError(f"{where}: suspend, or suspend=cpusvn")
        return value
    digits = value.removeprefix("-") if fault.name == "cpusvn" else value
    least, most = {"aex": (1, 1000), "cpusvn": (1, 200)}.get(fault.name, (1, 60_000))
    if not (digits.isascii() and digits.isdigit()) or not least <= int(digits) <= most:
        raise UsageError(f"{where}: {fault.name}={value}: a number from {least} to {most}")
    if fault.name == "cpusvn" and value.startswith("-") and int(digits) > 1:
        raise UsageError(f"{where}: CPUSVN's first component is 1, and can be lowered by 1")
    return value


def _condition(where: str, rule: Rule, word: str) -> None:
    name, equals, value = word.partition("=")
    if name in _WHEN:
        rule.when = name
        if name == "always":
            if equals:
                raise UsageError(f"{where}: always takes no value")
        elif name == "random":
            rule.number = _probability(where, value)
        else:
            rule.number = _number(where, name, value, 1)
        return
    if name not in rule.place.takes and name not in rule.fault.takes:
        known = [*_WHEN, *sorted(rule.place.takes | rule.fault.takes - {"value", "value?"})]
        raise UsageError(
            f"{where}: {rule.place.name}:{rule.fault.name} has no condition {name!r}; it has"
            f" {', '.join(known)}"
        )
    if name in _NUMBERS:
        if name == "after" and rule.fault.name in ("EBUSY",) and "after" not in rule.fault.takes:
            raise UsageError(f"{where}: sgx_ioctl() answers EBUSY before any page is done")
        setattr(rule, name, _number(where, name, value, 0))
        if rule.after >= 0 and rule.total >= 0:
            raise UsageError(f"{where}: after and total exclude each other")
    elif name == "signal":
        rule.signal = _signal(where, value)
    else:
        rule.at = _address(where, rule, value)


def _number(where: str, name: str, value: str, least: int) -> int:
    if not (value.isascii() and value.isdigit()) or not least <= int(value) < _MAX:
        raise UsageError(f"{where}: {name}={value}: a number from {least} on")
    return int(value)


def _probability(where: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise UsageError(f"{where}: random={value}: a probability above 0, and 1 at most")
    return number


def _signal(where: str, value: str) -> str:
    import signal

    try:
        number = signal.Signals[value]
    except KeyError:
        raise UsageError(f"{where}: there is no signal {value}, like SIGALRM") from None
    if number in (signal.SIGKILL, signal.SIGSTOP):
        raise UsageError(f"{where}: {value} has no handler")
    return value


def _address(where: str, rule: Rule, value: str) -> tuple[str | None, str | None, int]:
    """``0x1000``, or ``FILE!SYMBOL``, with ``+0x10`` behind it or not."""
    file, bang, name = value.rpartition("!")
    if not bang:
        return None, None, _hex(where, value)
    if rule.place.kind != "inside":
        raise UsageError(f"{where}: at={value}: {rule.place.name} takes an offset in ELRANGE")
    name, plus, offset = name.partition("+")
    from softsgx.faults.symbols import symbol_code

    symbol_code(where, file, name)  # a mistake is told now
    return file, name, _hex(where, offset) if plus else 0


def _hex(where: str, value: str) -> int:
    try:
        number = int(value, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 47:
        raise UsageError(
            f"{where}: at={value}: an offset in ELRANGE, or FILE!SYMBOL of an ELF file"
        )
    return number


def read_rules(
    given: Iterable[str], design: Any, *, carry_out: bool = False
) -> list[Rule]:  # fmt: skip
    """The rules of ``--inject``: each a rule, a file of rules, or a recording to be replayed.

    Raises UsageError, one line.
    """
    known = places(design, carry_out=carry_out)
    rules: list[Rule] = []
    for text in given:
        lines = [text]
        if text.partition(":")[0] not in known and os.path.exists(text):
            lines = _lines(text)
        rules += [parse_rule(line, known, design.name) for line in lines]
    texts = [rule.text() for rule in rules]
    for rule, text in zip(rules, texts, strict=True):
        if texts.count(text) > 1:
            raise UsageError(f"--inject {text}: given twice; the second could never fire")
        hidden = next((r for r in rules if r is not rule and _hides(r, rule)), None)
        if hidden is not None:
            raise UsageError(f"--inject {text}: can never fire: {hidden.text()} comes before it")
    return rules


def _hides(first: Rule, other: Rule) -> bool:
    """Whether a rule takes every chance of another: the first that is due is carried out."""
    free = first.after <= 0 and first.total < 0 and first.at is None and not first.signal
    return first.place is other.place and first.when == "always" and free


def _lines(path: str) -> list[str]:
    try:
        with opened(path) as f:
            text = f.read().decode(errors="replace")
    except OSError as e:
        raise UsageError(f"--inject {path}: {e.strerror}") from None
    if text.startswith('{"softsgx"'):
        from softsgx.faults.replayed import rules_of_recording

        return rules_of_recording(path, text)
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise UsageError(f"--inject {path}: no rule in it; {_EXAMPLE}")
    return found
