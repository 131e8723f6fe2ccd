"""``softsgx check --export``: programs of others confirm it from the files alone."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.checker.certificates.folder import prepare_folder, write_questions
from softsgx.checker.certificates.question import Question
from softsgx.checker.engines.answer import Answer
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import System
from softsgx.checker.world.world import World
from softsgx.cli.main import main
from softsgx.designs.registry import make_design
from softsgx.errors import UsageError
from softsgx.law.values import Value
from tests.checker.needs import needs_abc
from tests.command import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
pytestmark = needs_abc
HELD = ["--permissions", "0:device=read,write,execute;file=execute"]
SMALL = ["--pages", "1", "--processes", "1", "--jobs", "1", *HELD]


def _confirm(directory: Path, *more: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "tools/confirm.py"), str(directory), "--jobs", "1", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pages, two processes, open permissions: proofs, a vacuous one, traces with less."""
    folder = tmp_path_factory.mktemp("two")
    names = [x for n in ("modified-code", "told-apart") for x in ("--property", n)]
    main(["check", "v20", *names, "--jobs", "1", "--export", str(folder)])
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page and a process with given permissions: what explicit search and Spacer decide."""
    folder = tmp_path_factory.mktemp("one")
    main(["check", "v20", "source-vma", "--property", "asked", *SMALL, "--export", str(folder)])
    return folder


@pytest.fixture(scope="module")
def younger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the default table what was added last: what `make confirm` does with all."""
    folder = tmp_path_factory.mktemp("younger")
    names = [x for n in ("vetted-always", "asked-here") for x in ("--property", n)]
    main(["check", "fsm", "ema", *names, "--jobs", "2", "--export", str(folder)])
    return folder


def test_others_confirm_the_younger_designs_and_properties(younger: Path) -> None:
    """With `benign-runs`, whose proof takes it of all others that they hold no more, either."""
    status, said = _confirm(younger)
    assert status == 0, said
    found = {k: v["reachable"] for k, v in _questions(younger).items()}
    assert found == {
        f"{design}.{name}": reachable
        for design in ("fsm", "ema")
        for name, reachable in (
            ("asked-here/question", False), ("asked-here/any-number", False),
            ("benign-runs/question", False), ("benign-runs/any-number", False),
            ("vetted-always/question", True),
        )
    }  # fmt: skip


def test_each_number_is_told_with_the_question(younger: Path) -> None:
    for index in _questions(younger).values():
        many = None if index["question"] == "any-number" else 2
        assert (index["pages"], index["processes"]) == (many, many)


def _questions(folder: Path) -> dict[str, dict[str, object]]:
    """The indices by design.property/question; a design's options are left out."""
    found = {}
    for path in folder.glob("*/*/index.json"):
        index = json.loads(path.read_text())
        found[f"{index['design']}.{index['property']}/{index['question']}"] = index
    return found


@pytest.mark.parametrize("shortest", [(), ("--shortest", "60")], ids=["two", "shortest"])
def test_others_confirm_all(two: Path, one: Path, shortest: tuple[str, ...]) -> None:
    """cvc5 confirms each proof, and it and a simulator of AIGER each trace."""
    status, said = _confirm(one if shortest else two, *shortest)
    assert status == 0, said
    indices = _questions(one if shortest else two)
    proofs = [k for k, v in indices.items() if v["reachable"] is False]
    traces = [k for k, v in indices.items() if v["reachable"]]
    assert f"{len(proofs)} proofs as SMT-LIB" in said
    assert f"{len(proofs)} proofs as AIGER" in said
    assert proofs
    assert traces
    if shortest:
        assert f"{len(traces)} shortest" in said
    else:
        assert {"v20.modified-code/any-number", "v20.modified-code/vacuous"} <= set(proofs)
        assert "v20.told-apart/file-1" in traces


def _copy(one: Path, to: Path, reachable: bool) -> Path:
    """A question's folder with this answer, alone in an export."""
    indices = one.glob("*/question/index.json")
    found = next(p.parent for p in indices if json.loads(p.read_text())["reachable"] is reachable)
    return Path(shutil.copytree(found, to / "pair" / "question"))


def test_a_wrong_certificate_is_found(one: Path, tmp_path: Path) -> None:
    folder = _copy(one, tmp_path, reachable=False)
    question = (folder / "question.aig").read_bytes()
    certificate = (folder / "certificate.aig").read_bytes()
    # "Not bad" alone is no invariant here: the bad state's literal as the output.
    assert question.split(b"\n")[0] != certificate.split(b"\n")[0]
    (folder / "certificate.aig").write_bytes(question)
    text = (folder / "consecution.smt2").read_text()
    cut = "\n".join(x for x in text.splitlines() if not x.startswith("(assert (not (or"))
    assert cut.count("\n") < text.count("\n") - 1
    (folder / "consecution.smt2").write_text(cut)
    status, said = _confirm(tmp_path)
    assert status == 1
    assert said.count("NOT CONFIRMED") == 2, said


def test_a_certificate_of_another_system_is_found(one: Path, two: Path, tmp_path: Path) -> None:
    folder = _copy(one, tmp_path, reachable=False)
    other = next(two.glob("v20.*/question/certificate.aig"))
    shutil.copy(other, folder / "certificate.aig")
    status, said = _confirm(tmp_path)
    assert status == 1
    assert "another system" in said


def test_a_wrong_trace_is_found(one: Path, tmp_path: Path) -> None:
    folder = _copy(one, tmp_path, reachable=True)
    lines = (folder / "trace.aiw").read_text().splitlines()
    del lines[4]  # the first step after the choice of permissions
    (folder / "trace.aiw").write_text("\n".join([*lines, ""]))
    status, said = _confirm(tmp_path)
    assert status == 1
    assert "traces simulated" in said


def test_z3_reads_and_decides_the_horn_clauses(one: Path, two: Path) -> None:
    import z3

    decided = set()
    for path in one.glob("v20*/question/question.smt2"):
        solver = z3.SolverFor("HORN")
        solver.from_file(str(path))
        index = json.loads((path.parent / "index.json").read_text())
        assert str(solver.check()) == ("unsat" if index["reachable"] else "sat")
        decided.add(index["reachable"])
    assert decided
    for path in two.glob("*/*/*.smt2"):
        assert len(z3.parse_smt2_file(str(path))) > 0


def test_cvc5_reads_the_horn_clauses(one: Path) -> None:
    import cvc5

    for path in one.glob("*/question/question.smt2"):
        text = path.read_text().replace("(set-logic HORN)", "(set-logic UF)")
        solver = cvc5.Solver(cvc5.TermManager())
        parser = cvc5.InputParser(solver)
        parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, path.name)
        symbols = parser.getSymbolManager()
        commands = []
        while not (command := parser.nextCommand()).isNull():
            commands.append(command.getCommandName())
            if command.getCommandName() not in ("check-sat", "exit"):
                command.invoke(solver, symbols)
        assert commands.count("assert") == 3
        assert commands[-2:] == ["check-sat", "exit"]


@pytest.mark.skipif(not shutil.which("spin"), reason="spin is missing: apt-get install spin")
def test_spin_says_the_same(one: Path, tmp_path: Path) -> None:
    """Spin sees all states of a world with given permissions."""
    said = set()
    for path in sorted(one.glob("*.asked/question/question.pml")):
        shutil.copy(path, tmp_path / "question.pml")
        for command in (
            ["spin", "-a", "question.pml"],
            ["gcc", "-O1", "-w", "-DSAFETY", "-DNOREDUCE", "-o", "pan", "pan.c"],
        ):
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE)
        done = subprocess.run(
            ["./pan", "-m100000"], cwd=tmp_path, check=True, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip
        index = json.loads((path.parent / "index.json").read_text())
        assert "max search depth too small" not in done.stdout
        assert f"errors: {int(index['reachable'])}" in done.stdout, (path, done.stdout)
        said.add(index["reachable"])
    assert said == {True, False}


# -- files --------------------------------------------------------------------------------


def _stats(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_what_is_there_already_is_left_alone(
    one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "again"
    shutil.copytree(one, folder)
    notes = next(folder.glob("v20.asked/question")) / "notes.txt"
    notes.write_text("mine")
    torn = next(folder.glob("v20.asked/question/question.aig"))
    before = _stats(folder)
    torn.write_bytes(torn.read_bytes()[:-1])
    main(["check", "v20", "--property", "asked", *SMALL, "--export", str(folder)])
    after = _stats(folder)
    # How small the other proof's invariant is made depends on the time that there is.
    changed = {n for n in before if "/any-pages/" not in n and after.get(n) != before[n]}
    assert changed == {"v20.asked/question/question.aig", "v20.asked/question/index.json"}
    assert torn.read_bytes() == (one / torn.relative_to(folder)).read_bytes()
    assert notes.read_text() == "mine"
    capsys.readouterr()


def _small_question() -> Question:
    world = World(make_design("linux-6.12"), 1, 1)
    build_moves(world)
    condition: Value = world.now("enclave.created")
    system = System(world)
    return Question("question", "it", system, world.some([condition]), Answer(None, 3, "test"))


def test_what_an_earlier_answer_left_goes(tmp_path: Path) -> None:
    question = _small_question()
    proved = _small_question()
    proved.cubes, proved.reached = [], False
    proved.label = "any-pages"
    write_questions(str(tmp_path / "p"), {}, [question, proved])
    assert (tmp_path / "p/any-pages/certificate.aig").exists()
    write_questions(str(tmp_path / "p"), {}, [question])
    assert not (tmp_path / "p/any-pages").exists()
    proved.label = "question"
    write_questions(str(tmp_path / "p"), {}, [proved])
    assert (tmp_path / "p/question/certificate.aig").exists()
    write_questions(str(tmp_path / "p"), {}, [question])
    names = {p.name for p in (tmp_path / "p/question").iterdir()}
    assert names == {"question.aig", "question.smt2", "question.pml", "index.json"}


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for where, why in ((tmp_path / "file/x", "Not a directory"), (tmp_path / "file", "exists")):
        assert main(["check", "v20", "--property", "asked", *SMALL, "--export", str(where)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert f"--export {where}: " in line
        assert why in line
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "v20.asked").write_text("")
    assert main(["check", "v20", "--property", "asked", *SMALL, "--export", f"{tmp_path}/in"]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "ABC" not in x]
    assert "v20.asked" in line


@pytest.mark.parametrize("ends", [signal.SIG_DFL, signal.SIG_IGN], ids=["killed", "full"])
def test_an_end_in_the_middle_leaves_whole_files_only(
    tmp_path: Path, ends: signal.Handlers
) -> None:
    """The kernel ends the process at a size, which some of its files exceed; or write() fails."""
    question = _small_question()
    write_questions(str(tmp_path / "whole"), {}, [question])
    whole = {p.name: p.read_bytes() for p in (tmp_path / "whole/question").iterdir()}
    limit = sorted(map(len, whole.values()))[-1] - 1
    prepare_folder(str(tmp_path / "cut"))
    pid = os.fork()
    if not pid:
        try:
            signal.signal(signal.SIGXFSZ, ends)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            write_questions(str(tmp_path / "cut"), {}, [question])
            os._exit(1)
        except UsageError as e:
            os._exit(2 if "File too large" in str(e) else 3)
        finally:
            os._exit(4)
    _, status = os.waitpid(pid, 0)
    if ends == signal.SIG_DFL:
        assert os.WTERMSIG(status) == signal.SIGXFSZ
    else:
        assert os.waitstatus_to_exitcode(status) == 2
    left = {p.name: p.read_bytes() for p in (tmp_path / "cut/question").iterdir()}
    assert left
    assert left.items() < whole.items()
    assert "index.json" not in left
