"""The rules of a compiled policy as text: what libsepol decides by but does not tell.

libsepol's decision call knows allow rules, constraints and roles. It does not answer
three things that the kernel decides by: ioctl extended permissions, type transitions,
and which domains are permissive. `sepol_kernel_policydb_to_cil` writes all of them out
in one statement a line, and this module reads those lines. Reading the binary policy
instead would mean a second implementation of its format (every policydb version has
its own), for 0.4 s saved on the largest policies and nothing on small ones.

Nothing here decides an ordinary permission: allow rules are only read to explain.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping

__all__ = ["Branch", "Expression", "PolicyText", "Statement", "evaluate", "parse"]

_TOKEN = re.compile(r'[()]|"[^"]*"|[^\s()"]+')


class Expression(list["str | Expression"]):
    """An S-expression: atoms are str, lists are Expression."""

    def atom(self, index: int) -> str:
        """Return the atom at `index`; quotes of CIL strings are gone. TypeError for a list."""
        value = self[index]
        if isinstance(value, str):
            return value
        raise TypeError(f"not an atom: {value!r}")

    def sub(self, index: int) -> Expression:
        """Return the list at `index`; TypeError for an atom."""
        value = self[index]
        if isinstance(value, Expression):
            return value
        raise TypeError(f"not a list: {value!r}")


def parse(text: str) -> Expression:
    """Parse one CIL statement, for example ``(allow a b (file (read)))``."""
    stack = [Expression()]
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append(Expression())
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token.strip('"'))
    return stack[0].sub(0)


def evaluate(expression: str | Expression, booleans: Mapping[str, bool]) -> bool:
    """Evaluate a ``booleanif`` expression (CIL: and, or, xor, not, eq, neq)."""
    if isinstance(expression, str):
        return booleans[expression]
    if len(expression) == 1:
        return evaluate(expression[0], booleans)
    operator = expression.atom(0)
    values = [evaluate(operand, booleans) for operand in expression[1:]]
    if operator == "not":
        return not values[0]
    if operator == "and":
        return values[0] and values[1]
    if operator == "or":
        return values[0] or values[1]
    if operator in {"xor", "neq"}:
        return values[0] != values[1]
    return values[0] == values[1]  # eq


class Branch:
    """One arm of a ``booleanif``: its statements hold when the condition equals `when`."""

    __slots__ = ("condition", "text", "when")

    def __init__(self, text: str, when: bool) -> None:
        self.text = text
        self.condition = parse(f"({text})")
        self.when = when

    def holds(self, booleans: Mapping[str, bool]) -> bool:
        """Is this arm in force under these boolean values?"""
        return evaluate(self.condition, booleans) == self.when

    def describe(self) -> str:
        """Return the arm as text: the condition, negated for its false arm."""
        plain = self.text[1:-1] if self.text == f"({self.condition[0]})" else self.text
        return plain if self.when else f"not {plain}"

    def names(self) -> list[str]:
        """Return the booleans of the condition, sorted."""
        words = set(re.findall(r"[^\s()]+", self.text))
        return sorted(words - {"and", "or", "xor", "not", "eq", "neq"})


class Statement:
    """One line of the policy and the booleanif arm it stands in (None: always in force)."""

    __slots__ = ("branch", "line")

    def __init__(self, line: str, branch: Branch | None) -> None:
        self.line = line
        self.branch = branch

    def holds(self, booleans: Mapping[str, bool]) -> bool:
        """Is this statement in force under these boolean values?"""
        return self.branch is None or self.branch.holds(booleans)


class PolicyText:
    """The CIL text of a kernel policy, searched for one kind of statement at a time.

    `text` must be what sepol_kernel_policydb_to_cil writes: one statement a line, and
    booleanif blocks indented by four spaces a level. A distribution's policy is 11 MB of
    it, nearly all allow rules, so nothing is read before it is asked for.
    """

    __slots__ = ("_arms", "_attributes", "_by_keyword", "_starts", "_text", "booleans")

    def __init__(self, text: str) -> None:
        self._text = "\n" + text
        self._by_keyword: dict[str, list[Statement]] = {}
        self._attributes: dict[str, set[str]] | None = None
        self._starts: list[int] = []
        self._arms: list[Branch | None] = []
        self._find_arms()
        self.booleans: dict[str, bool] = {}
        for statement in self.statements("boolean"):
            _, name, value = parse(statement.line)
            self.booleans[str(name)] = value == "true"

    def _find_arms(self) -> None:
        """Note where each arm of each booleanif begins, and where the blocks end."""
        text, start = self._text, 0
        while (start := text.find("\n(booleanif ", start)) >= 0:
            condition, _, _ = text[start + len("\n(booleanif ") : start + 4096].partition("\n")
            end = text.index("\n)", start)
            arms = [
                (at, Branch(condition, when))
                for when in (True, False)
                if (at := text.find(f"\n    ({str(when).lower()}\n", start, end)) >= 0
            ]
            for at, arm in sorted(arms, key=lambda item: item[0]):
                self._starts.append(at)
                self._arms.append(arm)
            self._starts.append(end)
            self._arms.append(None)
            start = end

    def statements(self, keyword: str) -> list[Statement]:
        """Return the statements of one kind, for example ``allowx``, in the policy's order."""
        found = self._by_keyword.get(keyword)
        if found is not None:
            return found
        found, text = [], self._text
        for indent in ("", " " * 8):
            head = f"\n{indent}({keyword} "
            at = text.find(head)
            while at >= 0:
                end = text.find("\n", at + 1)
                line = text[at + 1 + len(indent) : end]
                index = bisect_right(self._starts, at) - 1
                found.append(Statement(line, self._arms[index] if index >= 0 else None))
                at = text.find(head, end)
        self._by_keyword[keyword] = found
        return found

    def attributes(self, name: str) -> set[str]:
        """Return the type itself and every attribute it belongs to."""
        if self._attributes is None:
            table: dict[str, set[str]] = {}
            for statement in self.statements("typeattributeset"):
                attribute, _, members = statement.line.removeprefix("(typeattributeset ").partition(
                    " ("
                )
                for member in members.rstrip(")").split():
                    table.setdefault(member, set()).add(attribute)
            self._attributes = table
        return {name} | self._attributes.get(name, set())

    def matching(self, keyword: str, source: str, target: str, tclass: str) -> Iterator[Statement]:
        """Yield the access statements (allow, dontaudit, …) that cover types and class.

        `source` and `target` are types; attributes and ``self`` are resolved. Statements
        of both arms of a conditional are yielded: ask `Statement.holds`.
        """
        sources, targets = self.attributes(source), self.attributes(target)
        wanted = f" (ioctl {tclass} " if keyword.endswith("x") else f" ({tclass} ("
        for statement in self.statements(keyword):
            if wanted not in statement.line:
                continue
            _, subject, target_name, _ = statement.line.split(" ", 3)
            if subject not in sources:
                continue
            if target_name not in targets and not (target_name == "self" and source == target):
                continue
            yield statement
