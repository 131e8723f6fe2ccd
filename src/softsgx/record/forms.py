"""Whether what was read is of the form that the schema's rows give.

A recording is a file like any other: what shows it is not to fail at a field of another type, nor
to ask at each. Rejected: a validator's library, for what forty lines do.
"""

from __future__ import annotations

from typing import Any

from softsgx.record.schema import EVENTS, EVERY, HEADER, OPTIONAL, May, Or

__all__ = ["wrong"]

_ANY = range(-(1 << 63), 1 << 64)
_WORDS = {int: "a number of 64 bits", str: "a text", bool: "true or false"}


def wrong(read: dict[str, Any]) -> str:
    """What is wrong of a header or an event, in words; "" if nothing is.

    An event that the schema has no row for, or a field, may be of a later softsgx.
    """
    if "softsgx" in read:
        return _wrong_fields(read, HEADER)
    event = read["event"]
    return (
        _wrong_fields(read, EVERY)
        or _wrong_fields(read, EVENTS.get(event, {}))
        or _wrong_fields(read, {name: OPTIONAL[name] for name in OPTIONAL.keys() & read.keys()})
    )


def _wrong_fields(fields: dict[str, Any], forms: dict[str, Any]) -> str:
    for name, form in forms.items():
        if name not in fields:
            if isinstance(form, May):
                continue
            return f"{name} is missing"
        if where := _wrong(fields[name], form):
            return name + where
    return ""


def _wrong(value: Any, form: Any) -> str:
    """The place below and what it is not, as in "[2][0] is not a text"; "" if nothing is wrong.

    form: None, a type or a range; [form] for a list of any length, a tuple of forms for one that
    begins so (later versions may have more), with ... for more of the last; {name: form} of these
    fields, {str: form} of all; `Or`.
    """
    if form is None:
        return "" if value is None else " is not null"
    if isinstance(form, Or):
        found = [_wrong(value, each) for each in form.forms]
        return "" if "" in found else found[0]
    if isinstance(form, type):
        good = type(value) is int and value in _ANY if form is int else isinstance(value, form)
        return "" if good else f" is not {_WORDS[form]}"
    if isinstance(form, range):
        good = type(value) is int and value in form
        return "" if good else f" is not a number from {form.start} to {form.stop - 1}"
    if isinstance(form, dict):
        return _wrong_object(value, form)
    if not isinstance(value, list):
        return " is not a list"
    forms = tuple(form)
    if forms[-1] is ...:
        forms = forms[:-1] + forms[-2:-1] * (len(value) - len(forms) + 1)
    elif isinstance(form, list):
        forms *= len(value)
    if len(value) < len(forms):
        return f" has {len(value)} elements, not {len(forms)}"
    for n, (element, each) in enumerate(zip(value, forms, strict=False)):
        if where := _wrong(element, each):
            return f"[{n}]{where}"
    return ""


def _wrong_object(value: Any, form: dict[Any, Any]) -> str:
    if not isinstance(value, dict):
        return " is not an object"
    if str in form:
        form = dict.fromkeys(value, form[str])
    where = _wrong_fields(value, form)
    return f".{where}" if where else ""
