"""A rule in words, made of its steps (`softsgx.law.trace`), so never out of date.

Masks are written as sets (R, RX, ∅; ∈ ⊆ ∩ ∪ ∖), conditions with and, or, not and ⇒.
What numbers are called (a page type, an errno) is the caller's to know: this room
knows no names of Linux or of the SDM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from softsgx.law.term import Term
from softsgx.law.trace import Ask, Assign, Clear, Need, Path, Result, Step, Unlocked
from softsgx.law.values import R, Value, W, X, mask_name

__all__ = ["Names", "describe", "term_text"]

# How tightly an operator binds; what binds looser inside it is put in parentheses.
_ATOM, _ARITHMETIC, _SET, _COMPARE, _NOT, _AND, _OR, _IMPLIES, _ITE = range(9)
_SETS = {"and": "∩", "or": "∪", "xor": "△", "minus": "∖"}  # noqa: RUF001
_MASK_BITS = 3  # R, W, X
_INFIX = {
    "add": (" + ", _ARITHMETIC),
    "sub": (" - ", _ARITHMETIC),
    "mul": (" × ", _ARITHMETIC),  # noqa: RUF001
    "mod": (" mod ", _ARITHMETIC),
    "shl": (" << ", _ARITHMETIC),
    "shr": (" >> ", _ARITHMETIC),
    "lt": (" < ", _COMPARE),
    "le": (" ≤ ", _COMPARE),
}
_ARITHMETIC_OPS = {name for name, (_, binds) in _INFIX.items() if binds == _ARITHMETIC}


def _mask(value: int) -> str:
    return mask_name(value) if value else "∅"


class Names:
    """What numbers are called.

    answer: of the number that a `need` stops with. fields: for the last part of a
    field's name (``pt``) what its values are called; the field ``mask`` is every
    field of permissions, which ``masks`` lists.
    """

    def __init__(
        self,
        answer: Callable[[int], str] = str,
        fields: Mapping[str, Callable[[int], str]] | None = None,
        masks: frozenset[str] = frozenset(("prot", "reqprot", "perm", "max", "may", "fmode")),
    ) -> None:
        self.answer, self.masks = answer, masks
        self.fields = {"mask": _mask, **(fields or {})}

    def kind_of_name(self, name: str, width: int | None = None) -> str:
        """Which of ``fields`` the values of a field are of; "" if none."""
        last = name.rpartition(".")[2]
        if last in self.fields:
            return last
        return "mask" if last in self.masks or width == _MASK_BITS else ""

    def kind(self, value: Value) -> str:
        """The same for the values of a term."""
        if not isinstance(value, Term):
            return ""
        if value.op == "var":
            return self.kind_of_name(str(value.args[0]), value.width)
        if value.op in ("and", "or", "xor", "minus"):
            return self.kind(value.args[0]) or self.kind(value.args[1])
        if value.op == "ite":
            return self.kind(value.args[1]) or self.kind(value.args[2])
        return ""


class _Text:
    """Prints terms: each method gives (text, how tightly it binds)."""

    def __init__(self, names: Names) -> None:
        self.names = names

    def text(self, value: Value, kind: str = "", around: int = _ITE) -> str:
        text, binds = self.parts(value, kind)
        return f"({text})" if binds > around else text

    def parts(self, value: Value, kind: str) -> tuple[str, int]:
        if not isinstance(value, Term):
            name = self.names.fields.get(kind)
            return (name(value) if name else _number(int(value))), _ATOM
        op, args = value.op, value.args
        if op == "var":
            return str(args[0]), _ATOM
        if op == "call":
            inner = ", ".join(self.text(a) for a in args[1:])
            return f"{self.text(args[0])}({inner})", _ATOM
        if op in _INFIX:
            sign, binds = _INFIX[op]
            return sign.join(self.text(a, "", binds - 1) for a in args), binds
        if op == "not":
            return self.negated(args[0])
        if op == "eq":
            return self.equal(args[0], args[1])
        if op == "ite":
            kind = kind or self.names.kind(value)
            then, other = self.text(args[1], kind, _OR), self.text(args[2], kind)
            return f"{then} if {self.text(args[0], '', _IMPLIES)} else {other}", _ITE
        if op in ("any", "all"):
            which = "some page has" if op == "any" else "every page has"
            return f"{which} {self.text(args[0], '', _NOT)}", _NOT
        return self.binary(op, args[0], args[1], kind or self.names.kind(value))

    def negated(self, value: Value) -> tuple[str, int]:
        if isinstance(value, Term) and value.op == "minus":
            return self.subset(value, "⊆")  # of a single bit
        if isinstance(value, Term) and value.op == "eq":
            inner = value.args[0]
            if isinstance(inner, Term) and inner.op == "minus" and value.args[1] == 0:
                return self.subset(inner, "⊈")
            text, _ = self.equal(value.args[0], value.args[1], "≠")
            return text, _COMPARE
        return f"not {self.text(value, '', _NOT)}", _NOT

    def subset(self, minus: Term, sign: str) -> tuple[str, int]:
        kind = self.names.kind(minus) or "mask"
        a, b = (self.text(x, kind, _SET) for x in minus.args)
        if kind == "mask" and not isinstance(minus.args[0], Term) and minus.args[0] in (R, W, X):
            sign = {"⊆": "∈", "⊈": "∉"}[sign]
        return f"{a} {sign} {b}", _COMPARE

    def equal(self, a: Value, b: Value, sign: str = "=") -> tuple[str, int]:
        if isinstance(a, Term) and a.op == "minus" and isinstance(b, int) and b == 0:
            return self.subset(a, "⊆")
        kind = self.names.kind(a) or self.names.kind(b)
        return f"{self.text(a, kind, _SET)} {sign} {self.text(b, kind, _SET)}", _COMPARE

    def binary(self, op: str, a: Value, b: Value, kind: str) -> tuple[str, int]:
        if op == "or" and isinstance(a, Term) and a.op == "not" and not kind:
            left, right = self.text(a.args[0], "", _OR), self.text(b, "", _IMPLIES)
            return f"{left} ⇒ {right}", _IMPLIES
        if kind:
            sign = _SETS[op]
            inside = _SET - 1 if op == "minus" else _SET
            left = self.text(a, kind, _SET if _op(a) == op else _SET - 1)
            return f"{left} {sign} {self.text(b, kind, inside)}", _SET
        if _op(a) in _ARITHMETIC_OPS or _op(b) in _ARITHMETIC_OPS:
            sign = {"and": "&", "or": "|", "xor": "^", "minus": "& ~"}[op]
            return f"{self.text(a, '', _ATOM)} {sign} {self.text(b, '', _ATOM)}", _ARITHMETIC
        if op == "minus":
            return f"{self.text(a, '', _SET - 1)} {_SETS[op]} {self.text(b, '', _SET - 1)}", _SET
        sign, binds = {"and": ("and", _AND), "or": ("or", _OR), "xor": ("xor", _OR)}[op]
        left = self.text(a, "", binds if _op(a) in (op, "") else binds - 1)
        return f"{left} {sign} {self.text(b, '', binds if _op(b) == op else binds - 1)}", binds


def _op(value: Value) -> str:
    return value.op if isinstance(value, Term) else ""


def _number(value: int) -> str:
    if value > 1 << 16 and value & value - 1 == 0:
        return f"2^{value.bit_length() - 1}"
    return str(value) if value < 1 << 16 else hex(value)


def term_text(value: Value, names: Names | None = None, kind: str = "") -> str:
    """A term as people write it. ``kind``: of which of the names' fields it is a value."""
    return _Text(names or Names()).text(value, kind)


def describe(paths: list[Path], names: Names | None = None, rule: str = "") -> list[str]:
    """The lines of a rule; what only some requests do is indented under its condition.

    rule: its name; steps that another rule states have that rule's in brackets.
    """
    writer = _Writer(names or Names(), rule)
    return writer.paths([(list(p.taken), p.steps) for p in paths])


class _Writer:
    def __init__(self, names: Names, rule: str) -> None:
        self.names, self.rule, self.text = names, rule, _Text(names)

    def paths(self, paths: list[tuple[list[tuple[Term, bool]], list[Step]]]) -> list[str]:
        """Common beginning, then the branches, then the common end."""
        if len(paths) == 1:
            return self._lines(paths[0][1])
        cond = paths[0][0][0][0]
        ways = {
            way: [(taken[1:], steps) for taken, steps in paths if taken[0][1] is way]
            for way in (True, False)
        }
        then, other = self.paths(ways[True]), self.paths(ways[False])
        head = 0
        while head < min(len(then), len(other)) and then[head] == other[head]:
            head += 1
        tail = 0
        while tail < min(len(then), len(other)) - head and then[-1 - tail] == other[-1 - tail]:
            tail += 1
        lines = then[:head]
        a, b = (x[head : len(x) - tail] for x in (then, other))
        if a:
            lines.append(f"if {self._condition(cond)}:")
            lines += ["  " + line for line in a]
        if b:
            lines.append("else:" if a else f"if {self.text.parts(cond.law_not(), '')[0]}:")
            lines += ["  " + line for line in b]
        return lines + then[len(then) - tail :]

    def _lines(self, steps: list[Step]) -> list[str]:
        lines = []
        held: set[int] = set()
        for step in steps:
            if isinstance(step, Need) and isinstance(step.cond, Term):
                if id(step.cond) in held:
                    continue  # it was needed before, and would have stopped there
                held.add(id(step.cond))
            lines.append(self._line(step))
        return lines

    def _line(self, step: Step) -> str:
        by = f" [{step.rule}]" if step.rule not in (self.rule, "") else ""
        if isinstance(step, Need):
            answer = self.names.answer(step.errno)
            why = f"   — {step.why}" if step.why else ""
            if isinstance(step.cond, Term):
                when = f"unless {self._condition(step.cond)}"
                if step.cond.op == "not" and _op(step.cond.args[0]) not in ("eq", "minus"):
                    when = f"if {self._condition(step.cond.args[0])}"
                return f"{answer} {when}{why}{by}"
            return f"{answer}{why}{by}"
        if isinstance(step, Ask):
            facts = ", ".join(self._fact(name, value) for name, value in step.what.items())
            when = f"if {self._condition(step.when)}: " if isinstance(step.when, Term) else ""
            goes_on = "" if step.stops else ", and go on"
            return f"{when}ask LSM {step.hook}({facts}){goes_on}{by}"
        if isinstance(step, Assign):
            kind = self.names.kind_of_name(step.field)
            return f"{step.field} := {self.text.text(step.value, kind)}{by}"
        if isinstance(step, Clear):
            return f"{step.place} := nothing{by}"
        if isinstance(step, Unlocked):
            held = f", {' and '.join(step.held)} held" if step.held else ""
            kept = f"; kept: {', '.join(step.kept)}" if step.kept else ""
            return f"other threads may come in between{held}: {step.what}{kept}{by}"
        assert isinstance(step, Result)
        return f"= {self.text.text(step.value, self.names.kind_of_name(step.rule))}"

    def _condition(self, cond: Value) -> str:
        return self.text.text(cond, "", _IMPLIES)

    def _fact(self, name: str, value: Value) -> str:
        text = self.text.text(value, self.names.kind_of_name(name))
        return name if text == name else f"{name}={text}"
