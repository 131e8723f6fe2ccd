"""A question, its trace and its certificate as SMT-LIB 2.6.

The question is a set of Horn clauses over a predicate of the state, the form of CHC-COMP;
trace and certificate are quantifier-free, and each file says by ``:status`` what a solver
has to answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from softsgx.checker.certificates.question import Question
from softsgx.checker.engines.answer import Answer
from softsgx.checker.engines.smtlib import InvariantQueries, all_of, any_of, gates, literal

__all__ = ["certificate_smtlib", "question_smtlib", "shorter_smtlib", "trace_smtlib"]


def _file(logic: str, status: str, words: str, lines: Iterable[str]) -> str:
    head = ["(set-info :smt-lib-version 2.6)", f"(set-logic {logic})"]
    head.append(f'(set-info :source "{words.replace(chr(34), chr(34) * 2)}")')
    head += [f"(set-info :status {status})"] if status else []
    return "\n".join([*head, *lines, "(check-sat)", "(exit)", ""])


def _names(question: Question) -> dict[int, str]:
    return {v: f"|{name}|" for v, name in question.names().items()}


def certificate_smtlib(question: Question) -> dict[str, str]:
    """The three queries that have to be unsatisfiable, by their names."""
    queries = InvariantQueries(
        question.system, question.bad, question.cubes or (), names=_names(question)
    )
    return {
        what: _file("QF_UF", "unsat", f"{question.words}: {meaning}", lines)
        for what, meaning, lines in (
            ("initiation", "a start outside of the invariant", queries.initiation()),
            ("consecution", "a step that leaves the invariant", queries.consecution()),
            ("safety", "a bad state within the invariant", queries.safety()),
        )
    }


def question_smtlib(question: Question) -> str:
    """Horn clauses: satisfiable where the bad state cannot be reached."""
    circuit, graph = question.circuit(), question.system.graph
    names = _names(question)
    state = [names[row[2] >> 1] for row in circuit.latches]
    inputs = [names[lit >> 1] for lit in circuit.inputs]
    reached = f"(reached {' '.join(state)})" if state else "reached"
    lines = [f"(declare-fun reached ({' '.join(['Bool'] * len(state))}) Bool)"]
    start = f"(reached {' '.join(['false'] * len(state))})" if state else reached
    lines.append(f"(assert {start})")

    def clause(roots: Sequence[int], more: Sequence[str], then: str) -> str:
        own, equal = _as_equations(question, roots, names)
        bound = [*state, *inputs, *own]
        body = f"(=> {all_of([reached, *equal, *more])}\n  {then})"
        return f"(assert (forall ({' '.join(f'({n} Bool)' for n in bound)})\n {body}))"

    nexts = [row[3] for row in circuit.latches]
    if state:
        after = f"(reached {' '.join(_term(lit, graph.fanins, names) for lit in nexts)})"
        lines.append(clause(nexts, (), after))
    if state or inputs:
        bad = _term(question.bad, graph.fanins, names)
        lines.append(clause([question.bad], [bad], "false"))
    status = {True: "unsat", False: "sat", None: ""}[question.reached]
    return _file("HORN", status, f"{question.words}: sat where it cannot be", lines)


def _term(lit: int, fanins: Sequence[tuple[int, int] | None], names: Mapping[int, str]) -> str:
    if lit <= 1:
        return "true" if lit else "false"
    name = f"n{lit >> 1}" if fanins[lit >> 1] is not None else names[lit >> 1]
    return f"(not {name})" if lit & 1 else name


def _as_equations(
    question: Question, roots: Iterable[int], names: Mapping[int, str]
) -> tuple[list[str], list[str]]:
    """The gates of the roots' cones: their names, and an equation for each."""
    fanins, own, equal = question.system.graph.fanins, [], []
    for v in question.system.graph.cone(roots):
        pair = fanins[v]
        if pair is not None:
            a, b = (_term(lit, fanins, names) for lit in pair)
            own.append(f"n{v}")
            equal.append(f"(= n{v} (and {a} {b}))")
    return own, equal


def _unrolled(
    question: Question, depth: int, given: Sequence[Mapping[int, int]] = ()
) -> list[str]:  # fmt: skip
    """The time frames 0 to ``depth``; gates of frame ``n`` are ``dn_…``.

    given: the inputs of each frame, by their literals; without them they are open.
    """
    circuit, graph = question.circuit(), question.system.graph
    latches = {row[2] >> 1: row[3] for row in circuit.latches}
    lines = [f"(define-fun d0_{v} () Bool false)" for v in latches]
    for frame in range(depth + 1):
        here, last = f"d{frame}_", frame == depth
        roots = [question.bad, *(() if last else latches.values())]
        values = {
            lit >> 1: ("false", "true")[given[frame].get(lit, 0)]
            for lit in (circuit.inputs if frame < len(given) else ())
        }
        lines += gates(graph, roots, values, here, latches, defined=bool(given))
        if not last:
            lines += [
                f"(define-fun d{frame + 1}_{v} () Bool {literal(nxt, here)})"
                for v, nxt in latches.items()
            ]
    return lines


def trace_smtlib(question: Question, trace: Answer) -> str:
    """The trace's inputs, step by step, and that the bad state holds at its end."""
    frames = list(question.frames(trace))
    lines = _unrolled(question, len(frames), frames)
    lines.append(f"(assert {literal(question.bad, f'd{len(frames)}_')})")
    return _file("QF_UF", "sat", f"{question.words}: the trace", lines)


def shorter_smtlib(question: Question, trace: Answer) -> str:
    """That fewer steps lead to the bad state."""
    depth = len(trace.steps or ())
    lines = _unrolled(question, depth)
    reached = [literal(question.bad, f"d{n}_") for n in range(depth + 1)]
    lines.append(f"(assert {any_of(reached)})")
    return _file("QF_UF", "unsat", f"{question.words}: in fewer steps", lines)
