"""Writes an export: whole files or none, and only what is not there already.

A file is made without a name and gets one when it is whole, so a process that is killed
leaves nothing in the way. ``index.json`` comes last and goes first: where it is, the folder
is complete.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from softsgx.checker.certificates.aigerfiles import (
    certificate_aiger,
    question_aiger,
    trace_witness,
)
from softsgx.checker.certificates.promela import question_promela
from softsgx.checker.certificates.question import Question
from softsgx.checker.certificates.smtfiles import (
    certificate_smtlib,
    question_smtlib,
    shorter_smtlib,
    trace_smtlib,
)
from softsgx.errors import UsageError

__all__ = ["files_of", "prepare_folder", "write_questions"]

INDEX = "index.json"
_TRACES, _QUERIES = ("trace", "weaker"), ("initiation", "consecution", "safety")
_OURS = (
    INDEX, "question.aig", "question.smt2", "question.pml", "certificate.aig", "shorter.smt2",
    *(f"{name}.smt2" for name in _QUERIES), *(f"{t}.{e}" for t in _TRACES for e in ("aiw", "smt2")),
)  # fmt: skip


def files_of(question: Question) -> dict[str, bytes]:
    """The files of a question by name, but for the index."""
    texts = {"question.smt2": question_smtlib(question), "question.pml": question_promela(question)}
    data = {"question.aig": question_aiger(question)}
    if question.cubes is not None:
        data["certificate.aig"] = certificate_aiger(question)
        texts |= {f"{n}.smt2": text for n, text in certificate_smtlib(question).items()}
    for name, trace in question.traces.items():
        texts[f"{name}.aiw"] = trace_witness(question, trace)
        texts[f"{name}.smt2"] = trace_smtlib(question, trace)
        if name == "trace":
            texts["shorter.smt2"] = shorter_smtlib(question, trace)
    return data | {name: text.encode() for name, text in texts.items()}


def prepare_folder(directory: str) -> None:
    """Make the folder, and see that files can be made there. Raises UsageError."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as e:
        raise UsageError(f"--export {directory}: {e.strerror}") from None


def write_questions(folder: str, about: Mapping[str, Any], questions: Sequence[Question]) -> None:
    """Write the questions of a pair into subfolders; what an earlier export left there goes.

    about: what each index begins with. Raises UsageError.
    """
    path = Path(folder)
    try:
        for old in _old(path) - {q.label for q in questions}:
            _clear(path / old, keep=())
        for question in questions:
            _write(path / question.label, about, question)
    except OSError as e:
        raise UsageError(f"--export {e.filename or folder}: {e.strerror}") from None


def _old(path: Path) -> set[str]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return {name for name in os.listdir(path) if (path / name / INDEX).is_file()}
    return set()


def _clear(path: Path, keep: Sequence[str]) -> None:
    for name in _OURS:
        if name not in keep:
            with suppress(FileNotFoundError):
                (path / name).unlink()
    with suppress(OSError):
        path.rmdir()  # where nothing else is in it


def _write(path: Path, about: Mapping[str, Any], question: Question) -> None:
    files = files_of(question)
    index = dict(about) | {
        "pages": question.pages,
        "processes": question.processes,
        "question": question.label,
        "words": question.words,
        "reachable": question.reached,
        "steps": question.depth if question.reached else None,
        "searched": question.depth if question.reached is None else None,
        "method": question.method,
        "files": sorted(files),
    }
    text = (json.dumps(index, indent=2) + "\n").encode()
    if all(_is_there(path / name, data) for name, data in [*files.items(), (INDEX, text)]):
        return
    path.mkdir(parents=True, exist_ok=True)
    _clear(path, keep=[name for name in files if name != INDEX])
    path.mkdir(exist_ok=True)
    for name, data in [*files.items(), (INDEX, text)]:
        if not _is_there(path / name, data):
            _put(path, name, data)


def _is_there(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except (FileNotFoundError, NotADirectoryError):
        return False


def _put(path: Path, name: str, data: bytes) -> None:
    """Make a file, or put another in its place; it has no name before it is whole."""
    try:
        file = os.open(path, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except OSError as e:
        if e.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        file = -1  # the file system has none without a name
    draft = path / f".{name}.{os.getpid()}"
    if file < 0:
        try:
            draft.write_bytes(data)
            draft.replace(path / name)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        return
    with open(file, "wb") as f:
        f.write(data)
        f.flush()
        _link(file, path / name, draft)


def _link(file: int, to: Path, draft: Path) -> None:
    # link(2) takes the link in /proc for the file; with a folder Python calls linkat(2).
    folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(FileExistsError):
            os.link(str(file), to, src_dir_fd=folder, follow_symlinks=True)
            return
        os.link(str(file), draft, src_dir_fd=folder, follow_symlinks=True)
        draft.replace(to)
    finally:
        os.close(folder)
