"""Confirms an export of ``softsgx check --export DIR`` by programs of others.

    tools/confirm.py DIR [--jobs N] [--shortest SECONDS]

Nothing of softsgx is imported: what is read are the files alone.

- A proof: cvc5 finds initiation, consecution and safety unsatisfiable. The same is asked
  of certificate.aig, which has to be question.aig with another output: its circuit is
  unrolled here and given to cvc5, so that both forms of the certificate hold, and hold of
  the same system.
- A trace: a simulator of AIGER (aigsim where it is installed, else py-aiger) reaches the
  bad state with the inputs of the witness; cvc5 finds trace.smt2 satisfiable.
- --shortest: cvc5 is asked for each trace whether fewer steps would do, for so long.

The status is 1 if something was not confirmed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path

import aiger
import cvc5

_QUERIES = ("initiation", "consecution", "safety")


def answers(text: str, timeout_s: float = 0) -> list[str]:
    """What cvc5 says to the commands of an SMT-LIB text."""
    solver = cvc5.Solver(cvc5.TermManager())
    if timeout_s:
        solver.setOption("tlimit-per", str(int(1000 * timeout_s)))
    parser = cvc5.InputParser(solver)
    parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "query")
    symbols = parser.getSymbolManager()
    said: list[str] = []
    while True:
        command = parser.nextCommand()
        if command.isNull():
            return [line for line in said if line]
        said.append(str(command.invoke(solver, symbols)).strip())


class Circuit:
    """A file of binary AIGER with one output: literals are as in the file."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        head, _, rest = data.partition(b"\n")
        kind, *numbers = head.split()
        if kind != b"aig":
            raise ValueError(f"{path}: not binary AIGER")
        _, self.n_inputs, self.n_latches, n_outputs, n_gates = map(int, numbers)
        lines = rest.split(b"\n", self.n_latches + n_outputs)
        self.nexts = [int(line) for line in lines[: self.n_latches]]
        self.output = int(lines[self.n_latches])
        body = iter(lines[-1])
        self.gates: list[tuple[int, int]] = []
        for n in range(n_gates):
            left = 2 * (self.n_inputs + self.n_latches + n + 1)
            high = left - _delta(body)
            self.gates.append((high, high - _delta(body)))
        names = bytes(body).decode().split("\nc\n")[0].splitlines()
        self.input_names = [n.split(" ", 1)[1] for n in names if n.startswith("i")]

    def unrolled(self, frame: int) -> Iterator[str]:
        """SMT-LIB for the inputs and gates of a time frame over its latches ``sFRAME_n``."""
        for n in range(1, self.n_inputs + 1):
            yield f"(declare-const v{frame}_{n} Bool)"
        for n in range(self.n_latches):
            yield f"(define-fun v{frame}_{self.n_inputs + 1 + n} () Bool s{frame}_{n})"
        for n, (a, b) in enumerate(self.gates, self.n_inputs + self.n_latches + 1):
            both = f"(and {self.term(frame, a)} {self.term(frame, b)})"
            yield f"(define-fun v{frame}_{n} () Bool {both})"

    @staticmethod
    def term(frame: int, lit: int) -> str:
        """A literal in a time frame."""
        if lit <= 1:
            return ("false", "true")[lit]
        name = f"v{frame}_{lit >> 1}"
        return f"(not {name})" if lit & 1 else name


def _delta(body: Iterator[int]) -> int:
    value = shift = 0
    while True:
        byte = next(body)
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value


def certificate_queries(question: Circuit, certificate: Circuit) -> dict[str, str]:
    """The three queries of a certificate, made from the circuits. Raises ValueError."""
    same = ("n_inputs", "n_latches", "nexts")
    if any(getattr(question, n) != getattr(certificate, n) for n in same) or (
        certificate.gates[: len(question.gates)] != question.gates
    ):
        raise ValueError("certificate.aig is of another system than question.aig")
    latches = range(certificate.n_latches)
    head = ["(set-logic QF_UF)"]
    free = [f"(declare-const s0_{n} Bool)" for n in latches]
    zero = [f"(define-fun s0_{n} () Bool false)" for n in latches]
    first = list(certificate.unrolled(0))
    then = [
        f"(define-fun s1_{n} () Bool {certificate.term(0, lit)})"
        for n, lit in enumerate(certificate.nexts)
    ]
    second = list(certificate.unrolled(1))
    excluded = [certificate.term(frame, certificate.output) for frame in (0, 1)]
    bad = certificate.term(0, question.output)
    return {
        what: "\n".join([*head, *lines, "(check-sat)"])
        for what, lines in {
            "initiation": [*zero, *first, f"(assert {excluded[0]})"],
            "consecution": [
                *free, *first, *then, *second,
                f"(assert (not {excluded[0]}))", f"(assert {excluded[1]})",
            ],
            "safety": [*free, *first, f"(assert (not {excluded[0]}))", f"(assert {bad})"],
        }.items()
    }  # fmt: skip


def simulated(folder: Path, trace: str) -> bool:
    """Whether a simulator of others comes to the bad state with a witness."""
    question, witness = folder / "question.aig", folder / f"{trace}.aiw"
    aigsim = shutil.which("aigsim")
    if aigsim:
        command = [aigsim, "-m", "-c", str(question), str(witness)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode == 0
    circuit = aiger.load(str(question))
    status, _, start, *rows = witness.read_text().split()
    if status != "1" or rows.pop() != "." or set(start) - {"0"}:
        return False
    names, state = Circuit(question).input_names, None
    for row in rows:
        inputs = {name: bit == "1" for name, bit in zip(names, row, strict=True)}
        outputs, state = circuit(inputs, latches=state)
    return set(outputs.values()) == {True}


def confirm(folder: Path, shortest_s: float = 0) -> tuple[Counter[str], list[str]]:
    """What of a question's folder is confirmed, and what is not."""
    index = json.loads((folder / "index.json").read_text())
    done: Counter[str] = Counter()
    wrong: list[str] = []

    def told(what: str, holds: bool) -> None:
        if holds:
            done[what] += 1
        else:
            wrong.append(f"{folder}: {what}")

    def says(name: str, expected: str) -> bool:
        return answers((folder / f"{name}.smt2").read_text()) == [expected]

    files = index["files"]
    if "certificate.aig" in files:
        held = all(says(name, "unsat") for name in _QUERIES)
        told("proofs as SMT-LIB", held and index["reachable"] is False)
        circuits = Circuit(folder / "question.aig"), Circuit(folder / "certificate.aig")
        try:
            queries = certificate_queries(*circuits)
        except ValueError as e:
            wrong.append(f"{folder}: {e}")
        else:
            told("proofs as AIGER", all(answers(queries[q]) == ["unsat"] for q in _QUERIES))
    elif index["reachable"] is False:
        wrong.append(f"{folder}: a proof without a certificate")
    for trace in ("trace", "weaker"):
        if f"{trace}.aiw" in files:
            told("traces simulated", simulated(folder, trace) and index["reachable"] is True)
            told("traces as SMT-LIB", says(trace, "sat"))
    if index["reachable"] is True and "trace.aiw" not in files:
        wrong.append(f"{folder}: reachable, without a trace")
    if "shorter.smt2" in files and shortest_s:
        said = answers((folder / "shorter.smt2").read_text(), shortest_s)
        if said == ["unsat"]:
            done["shortest"] += 1
        elif said == ["sat"]:
            wrong.append(f"{folder}: fewer steps lead there")
        else:
            done["not known to be shortest"] += 1
    done["questions"] += 1
    if index["reachable"] is None:
        done["open"] += 1
    return done, wrong


def _one(work: tuple[Path, float]) -> tuple[Counter[str], list[str]]:
    return confirm(*work)


def main() -> int:
    """Confirm all folders of an export."""
    p = argparse.ArgumentParser(description="confirm an export of softsgx check --export")
    p.add_argument("directory")
    p.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--shortest", type=float, default=0, metavar="SECONDS")
    a = p.parse_args()
    folders = sorted(path.parent for path in Path(a.directory).glob("*/*/index.json"))
    if not folders:
        print(f"confirm: {a.directory}: no export", file=sys.stderr)
        return 2
    total: Counter[str] = Counter()
    failed: list[str] = []
    with Pool(a.jobs) as pool:
        for done, wrong in pool.imap_unordered(_one, [(f, a.shortest) for f in folders]):
            total += done
            failed += wrong
    for line in sorted(failed):
        print(f"NOT CONFIRMED: {line}")
    simulator = "aigsim" if shutil.which("aigsim") else "py-aiger"
    print(
        f"cvc5 {cvc5.__version__}, {simulator}:",
        ", ".join(f"{n} {what}" for what, n in total.most_common()),
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
