"""A question, its trace and its certificate for programs that read AIGER.

Sources: Armin Biere, "The AIGER And-Inverter Graph (AIG) Format Version 20071012"; Biere,
Heljanko and Wieringa, "AIGER 1.9 And Beyond" (the format of witnesses). A certificate is the
question's circuit with another output, as Yu, Froleyks and Biere have it ("Certifying
Hardware Model Checking Results"): inputs, latches and gates of both have the same numbers.
"""

from __future__ import annotations

from softsgx.checker.certificates.question import Question
from softsgx.checker.engines.answer import Answer

__all__ = ["certificate_aiger", "question_aiger", "trace_witness"]


def question_aiger(question: Question) -> bytes:
    """The circuit; its output is 1 in bad states. All latches are 0 at the start."""
    lines = [question.words, *question.move_lines()]
    return question.circuit().data(names=question.names(), comment=lines)


def certificate_aiger(question: Question) -> bytes:
    """The same circuit; its output is 0 in the states of an inductive invariant."""
    g = question.system.graph
    excluded = g.any_of([question.bad, *(g.all_of(lits) for lits in question.cube_lits())])
    lines = [f"inductive, and excludes the bad states: {question.words}"]
    return question.circuit().data(excluded, names=question.names(), comment=lines)


def trace_witness(question: Question, trace: Answer) -> str:
    """The trace as a witness: the start, then the inputs of each time frame.

    The bad state holds in the last frame, whatever its inputs are.
    """
    circuit = question.circuit()
    rows = [
        "".join(str(inputs.get(lit, 0)) for lit in circuit.inputs)
        for inputs in [*question.frames(trace), {}]
    ]
    return "\n".join(["1", "b0", "0" * len(circuit.latches), *rows, ".", ""])
