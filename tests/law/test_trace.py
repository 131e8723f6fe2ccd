"""The steps of every rule of every design do what the rule does."""

from __future__ import annotations

import random
from typing import Any

import pytest

from softsgx.designs.base import Design
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.law.describe import Names, describe, term_text
from softsgx.law.rule import FAULT, At, Law, Request, Run, Stop, rule, rules_of
from softsgx.law.state import Cell, Schema
from softsgx.law.term import Term, replay, var, variables
from softsgx.law.trace import Ask, Assign, Clear, Need, Path, Result, trace
from softsgx.law.values import R, Value, W, X, any_, eq, has, implies, ite, minus, no, subset
from softsgx.mm.rules import VMA
from softsgx.report.rules import design_rules, rule_lines
from softsgx.sdm.leaves import PT_REG, PT_TCS, PT_TRIM


def _variants(cls: type[Design]) -> list[str]:
    """Each value of each option of a design, the others at their defaults."""
    texts = [cls.name]
    for option, values in cls.options.items():
        texts += [f"{cls.name}:{option}={value}" for value in values[1:]]
    return texts


VARIANTS = [text for cls in DESIGNS.values() for text in _variants(cls)]


def _schemas(design: Design) -> dict[str, Schema]:
    return {"page": design.page_schema, "vma": getattr(design, "vma_schema", VMA)}


@pytest.mark.parametrize("text", VARIANTS)
def test_every_rule_can_be_told_in_words(text: str) -> None:
    design = make_design(text)
    told = {r.name: r for r in design_rules(design)}
    assert told.keys() == rules_of(design).keys()
    for name, found in told.items():
        assert found.source
        assert found.doc, f"{name} has no docstring"
        assert found.law
        for line in found.lines:
            assert "Term" not in line
            assert "object at" not in line
    assert sum(len(r.lines) for r in told.values()) > 30


class _Recorder(Run):
    """A Run that notes the LSM's questions; those that may be denied as the environment says."""

    def __init__(self, env: _Env) -> None:
        super().__init__(None)
        self.env = env
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> None:
        if when:
            self.asked.append((hook, what))

    def granted(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> Value:
        self.ask(hook, at, when=when, **what)
        return self.env[f"granted({hook})"] if when else 1


def _given(name: str, generator: random.Random) -> int:
    """A value of a request's field: often one that is let through."""
    if name.endswith("pt"):
        return generator.choice((PT_REG, PT_REG, PT_TCS, PT_TRIM, 0))
    if name == "map_type":
        return generator.choice((1, 1, 2, 3))
    if name.rpartition(".")[2] in ("prot", "reqprot", "perm", "may", "fmode", "segment"):
        return generator.choice((0, R, R | W, R | X, R | W | X, W, X))
    if name in ("offset", "length", "length_bytes", "start", "end", "enclave.size"):
        return generator.choice((0, 4096, 8192, 1, 1 << 63))
    return generator.choice((1, 1, 1, 0))


class _Env(dict[str, Any]):
    """The values of a term's variables, made up when they are first asked for."""

    def __init__(self, generator: random.Random) -> None:
        super().__init__()
        self._generator = generator

    def __missing__(self, name: str) -> Any:
        value = self[name] = _Late(_given(name, self._generator))
        return value


class _Late(int):
    """A number, or what computes it when it is called."""

    def __call__(self, *args: Any) -> int:
        return int(self)


class _Fields:
    """A place or a request whose fields are those of an environment."""

    def __init__(self, prefix: str, env: _Env) -> None:
        self.__dict__.update(_prefix=prefix, _env=env)

    def __getattr__(self, name: str) -> Any:
        return self._env[self._prefix + name]

    def __setattr__(self, name: str, value: Any) -> None:
        self._env[self._prefix + name] = value


def _outcome_of_steps(paths: list[Path], env: _Env) -> tuple[Any, list[Any], dict[str, int]]:
    """(errno or value, LSM questions, assigned fields) as the steps say."""
    (path,) = [p for p in paths if all(bool(replay(c, env)) is way for c, way in p.taken)]
    asked: list[Any] = []
    assigned: dict[str, int] = {}
    for step in path.steps:
        if isinstance(step, Need):
            if not replay(step.cond, env):
                return step.errno, asked, assigned
        elif isinstance(step, Ask):
            if replay(step.when, env):
                asked.append((step.hook, {k: replay(v, env) for k, v in step.what.items()}))
        elif isinstance(step, Assign):
            assigned[step.field] = replay(step.value, env)
        elif isinstance(step, Clear):
            assigned[step.place] = 0
        elif isinstance(step, Result):
            return replay(step.value, env), asked, assigned
    return None, asked, assigned


def _compare(design: Design, name: str, paths: list[Path], seed: int) -> None:
    generator = random.Random(seed)
    schemas = _schemas(design)
    env = _Env(generator)
    cells: dict[str, Cell] = {}
    for place, schema in schemas.items():
        values = {f: _given(f"{place}.{f}", generator) & m.mask for f, m in schema.fields.items()}
        env.update({f"{place}.{f}": v for f, v in values.items()})
        cells[place] = schema.cell(schema.pack(**values))
    told = _outcome_of_steps(paths, env)
    others = _Env(generator)
    others.update(env)
    at = At(
        **cells,
        **{p: _Fields(f"{p}.", others) for p in ("enclave", "file", "process", "source")},
    )
    run = _Recorder(others)
    before = dict(others)
    rule_function = getattr(design, name)
    arguments = (run, at, _Fields("", others)) if rule_function.__code__.co_argcount > 2 else (at,)
    answer: Any
    try:
        answer = rule_function(*arguments)
    except Stop as stop:
        answer = stop.errno
    after = {
        f"{place}.{f}": v
        for place, cell in cells.items()
        for f, v in cell.schema.unpack(cell.words[0]).items()
    }
    assert answer == told[0]
    assert run.asked == told[1]
    expected = {key: env[key] for key in after}
    for key, value in told[2].items():
        if key in cells:
            expected.update(dict.fromkeys([k for k in after if k.startswith(key + ".")], 0))
        elif key in expected:
            expected[key] = value
        else:
            assert others[key] == value
    assert after == expected
    written = {k for k in before if others[k] is not before[k] and others[k] != before[k]}
    assert written <= told[2].keys()


# A rule that looks at pages elsewhere needs a whole enclave, not an environment.
_ELSEWHERE = {("segments", "driver_mremap")}


@pytest.mark.parametrize("text", VARIANTS)
def test_the_steps_do_what_the_rule_does(text: str) -> None:
    design = make_design(text)
    for name in rules_of(design):
        if (design.name, name) in _ELSEWHERE or (design.name, "mremap") == ("segments", name):
            continue
        paths = trace(design, name, schemas=_schemas(design), widths={"fixed": 1})
        for seed in range(60):
            _compare(design, name, paths, seed)


# -- paths -----------------------------------------------------------------------------------


class _Branching(Law):
    """Rules that branch on the request in ways that a design may."""

    @rule("nowhere")
    def three_ways(self, k: Any, at: Any, r: Any) -> None:
        """Equality with one number excludes the others."""
        if r.kind == 1:
            k.need(11, at.page.present, "one")
        elif r.kind == 2:
            k.need(12, no(at.page.present), "two")
        else:
            k.need(13, int(r.kind != 1), "never fails")
        at.page.max = r.perm

    @rule("nowhere")
    def known(self, k: Any, at: Any, r: Any) -> None:
        """What was needed is not asked again."""
        k.need(22, no(r.private), "shared")
        if r.private:
            k.need(1, 0, "unreachable")
        k.need(5, 0, "always")
        at.page.max = 7

    @rule("nowhere")
    def leafed(self, k: Any, at: Any, r: Any) -> None:
        """An instruction's answers become errnos."""
        k.leaf(self.instruction, at, r, failed=5, faulted=14)

    @rule("nowhere")
    def instruction(self, k: Any, at: Any, r: Any) -> None:
        """An error code and a fault."""
        k.need(19, at.page.present, "code")
        k.need(FAULT | 13, at.page.modified, "fault")


_PAGE = Schema("page", present=1, max=3, modified=1)


def _needs(path: Path) -> list[tuple[int, str]]:
    return [(s.errno, s.why) for s in path.steps if isinstance(s, Need)]


def test_a_rule_is_run_once_for_each_way_that_the_request_can_go() -> None:
    paths = trace(_Branching(), "three_ways", schemas={"page": _PAGE})
    assert [_needs(p) for p in paths] == [[(11, "one")], [(12, "two")], []]
    assert [[way for _, way in p.taken] for p in paths] == [[True], [False, True], [False, False]]
    assert all(isinstance(p.steps[-1], Assign) for p in paths)


def test_what_a_need_says_is_known_afterwards_and_what_always_stops_ends() -> None:
    (path,) = trace(_Branching(), "known", schemas={"page": _PAGE})
    assert _needs(path) == [(22, "shared"), (5, "always")]
    assert not any(isinstance(s, Assign) for s in path.steps)


def test_the_steps_of_an_instruction_have_the_drivers_errnos_and_its_name() -> None:
    (path,) = trace(_Branching(), "leafed", schemas={"page": _PAGE})
    assert _needs(path) == [(5, "code"), (14, "fault")]
    assert {s.rule for s in path.steps} == {"instruction"}
    (own,) = trace(_Branching(), "instruction", schemas={"page": _PAGE})
    assert _needs(own) == [(19, "code"), (FAULT | 13, "fault")]


def test_branches_are_indented_and_what_they_share_is_not() -> None:
    lines = describe(trace(_Branching(), "three_ways", schemas={"page": _PAGE}), Names(str))
    assert lines == [
        "if kind = 1:",
        "  11 unless page.present   — one [three_ways]",
        "else:",
        "  if kind = 2:",
        "    12 if page.present   — two [three_ways]",
        "page.max := perm [three_ways]",
    ]


# -- words -----------------------------------------------------------------------------------

_PERM, _PROT, _MAX = var("perm", 3), var("prot", 3), var("page.max", 3, each=True)
_PRESENT, _PENDING = var("page.present", 1, each=True), var("page.pending", 1, each=True)
_PT = var("pt")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (subset(_PROT, ite(_PRESENT, _MAX, 7)), "prot ⊆ (page.max if page.present else RWX)"),
        (implies(has(_PERM, W), has(_PERM, R)), "W ∈ perm ⇒ R ∈ perm"),
        (has(_PERM, W | X), "WX ⊆ perm"),
        (no(has(_PERM, X)), "X ∉ perm"),
        (eq(_PERM, 0), "perm = ∅"),
        (no(eq(_PT, 2)), "pt ≠ PT_REG"),
        (_PRESENT & no(_PENDING), "page.present and not page.pending"),
        (no(_PRESENT & _PENDING), "not (page.present and page.pending)"),
        (_PRESENT & (_PENDING | eq(_PT, 1)), "page.present and (page.pending or pt = PT_TCS)"),
        (no(no(_PRESENT)), "page.present"),
        (_PROT & _PERM | 4, "(prot ∩ perm) ∪ X"),  # noqa: RUF001
        ((_PROT | _PERM) & 3, "(prot ∪ perm) ∩ RW"),  # noqa: RUF001
        (minus(7, _PERM | W), "RWX ∖ (perm ∪ W)"),  # noqa: RUF001
        (any_(has(_MAX, W)), "some page has W ∈ page.max"),
        (ite(eq(_PT, 1), 3, _PERM), "RW if pt = PT_TCS else perm"),
        (var("offset") + var("length") <= 1 << 20, "offset + length ≤ 2^20"),
        (eq(var("n") & var("n") - 1, 0), "n & (n - 1) = 0"),
        (var("file.inside")(var("start"), 4096), "file.inside(start, 4096)"),
    ],
)
def test_terms_in_words(value: Term, text: str) -> None:
    names = Names(fields={"pt": lambda v: {1: "PT_TCS", 2: "PT_REG"}[v]})
    assert term_text(value, names) == text


def test_the_words_of_rules_that_people_look_up() -> None:
    design = make_design("linux-6.0")
    assert (
        "EACCES unless prot ⊆ (page.max if page.present else RWX)   — prot within max"
        in rule_lines(design, "may_map")
    )
    mprotect = rule_lines(design, "mprotect")
    assert mprotect[0] == "EACCES unless prot ⊆ vma.may   — prot within VM_MAY*"
    assert mprotect[1] == "ask LSM file_mprotect(reqprot, prot)"
    assert mprotect[-1] == "vma.prot := prot"
    assert mprotect[2] == "other threads may come in between, mmap_lock held: the LSM was asked"
    assert mprotect[3].endswith("[may_map]")
    assert rule_lines(design, "fault") == [
        "SIGBUS unless vma.prot ⊆ page.max   — the VMA's prot within max"
    ]
    assert any(line.startswith("SGX_PAGE_NOT_MODIFIABLE") for line in rule_lines(design, "emodpr"))
    assert any(line.startswith("#PF ") for line in rule_lines(design, "emodpr"))
    assert rule_lines(make_design("linux-5.11"), "fault_absent") == [
        "SIGBUS unless page.present   — a page was added there"
    ]


def test_an_option_changes_the_words() -> None:
    prot = rule_lines(make_design("ioc-mprotect:source=prot"), "add_region")
    assert "page.vm_may := source.prot" in prot
    assert "page.vm_may := source.may" in rule_lines(make_design("ioc-mprotect"), "add_region")


def test_a_rule_reads_the_state_before_it() -> None:
    path, _ = trace(make_design("linux-6.0"), "modify_type", schemas={"page": make_design(
        "linux-6.0").page_schema})  # fmt: skip
    assigned = {s.field: s.value for s in path.steps if isinstance(s, Assign)}
    assert [v.args[0] for v in variables(assigned["page.max"])] == ["pt", "page.max"]
    assert isinstance(Request(pt=1), At)
