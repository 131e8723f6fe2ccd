"""The options of a security module, made into what the supervisor confines a run with."""

from __future__ import annotations

import os
from typing import Any

from softsgx.errors import UsageError
from softsgx.inputs import opened
from softsgx.policy.apparmor import AppArmorPolicy
from softsgx.policy.apparmor_lsm import UNCONFINED, AppArmorLsm
from softsgx.policy.labels import PathLabels
from softsgx.policy.merge import merged
from softsgx.policy.native import compile_cil, image_to_cil
from softsgx.policy.selinux import MINIMAL, SGX_MODULE, SELinuxPolicy, read_policy
from softsgx.policy.selinux_lsm import SELinuxLsm, full_context
from softsgx.supervisor.state.confinement import Confinement

__all__ = ["confinement", "load_selinux"]

_SELINUX = ("context", "boolean", "permissive", "file-contexts")
_OWN = {"minimal": MINIMAL, "sgx": SGX_MODULE}
_VALUES = {"on": True, "1": True, "true": True, "off": False, "0": False, "false": False}


def confinement(chosen: dict[str, Any], program: str) -> Confinement:
    """What a run is confined with; ``chosen``: the options by name, ``program``: its file.

    Raises UsageError, UnsupportedError: one line on what is wrong.
    """
    if "selinux" in chosen and "apparmor" in chosen:
        raise UsageError("--selinux and --apparmor: Linux runs one of them; choose")
    if "selinux" in chosen:
        if "profile" in chosen:
            raise UsageError("--profile is AppArmor's; for SELinux write --context PATH=CONTEXT")
        return _selinux(chosen)
    if "permissive" in chosen and "apparmor" in chosen:
        raise UsageError(
            "--permissive is SELinux's; for AppArmor write flags=(complain) into the profile"
        )
    for name in _SELINUX:
        if name in chosen:
            raise UsageError(f"--{name} belongs to --selinux FILE, which is missing")
    if "apparmor" in chosen:
        return _apparmor(chosen, program)
    if "profile" in chosen:
        raise UsageError("--profile belongs to --apparmor FILE, which is missing")
    raise UsageError("--audit needs a security module: give --selinux or --apparmor too")


def load_selinux(files: list[str], booleans: dict[str, bool], enforcing: bool) -> SELinuxPolicy:
    """A policy, with CIL modules compiled in: ``files[1:]``.

    "minimal" is softsgx's own, "sgx" a module with the permissions that no policy ships.

    Raises UsageError, UnsupportedError.
    """
    paths = [_OWN.get(name, name) for name in files]
    if len(paths) == 1:
        return SELinuxPolicy.load(paths[0], booleans=booleans, enforcing=enforcing)
    sources, contexts = [], b""
    for path in paths:
        if path != paths[0] or path.endswith(".cil"):
            sources.append((os.path.basename(path), _read(path)))
        else:
            # A compiled policy's own text is CIL without the path labels.
            image, contexts = read_policy(path)
            sources.append((os.path.basename(path), image_to_cil(image, path).encode()))
    image, more = compile_cil(merged(sources), " and ".join(paths))
    return SELinuxPolicy(
        image, paths[0], booleans=booleans, enforcing=enforcing, file_contexts=contexts + more
    )


def _read(path: str) -> bytes:
    try:
        with opened(path) as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the policy: {error.strerror}") from None


def _boolean(text: str) -> tuple[str, bool]:
    name, equals, value = text.partition("=")
    if not equals or value.lower() not in _VALUES:
        raise UsageError(f"--boolean {text}: write NAME=on or NAME=off")
    return name, _VALUES[value.lower()]


def _selinux(chosen: dict[str, Any]) -> Confinement:
    booleans = dict(_boolean(text) for text in chosen.get("boolean", ()))
    enforcing = not chosen.get("permissive", False)
    policy = load_selinux(chosen["selinux"], booleans, enforcing)
    start, rules = None, {}
    for text in chosen.get("context", ()):
        path, equals, context = text.partition("=")
        if text.startswith("/") and equals:
            rules[os.path.realpath(path)] = full_context(policy, context)
        else:
            start = full_context(policy, text)
    kernel = policy.initial_context("kernel")
    if kernel is None:
        raise UsageError(f"{policy.where}: the policy has no initial context of the kernel")
    labels = PathLabels(policy, file_contexts=chosen.get("file-contexts"))
    setup = {
        "policy": [n if n in _OWN else os.path.abspath(n) for n in chosen["selinux"]],
        "booleans": booleans,
        "enforcing": enforcing,
        "context": start or "",
        "rules": rules,
        "file_contexts": chosen.get("file-contexts", ""),
    }
    return Confinement(
        SELinuxLsm(policy, labels, kernel),
        start=start,
        rules=rules,
        audit=chosen.get("audit"),
        setup=setup,
    )


def _profile_rule(text: str, policy: AppArmorPolicy) -> tuple[str, str]:
    """``/PATH=NAME``: the file that is executed, and the profile of who executes it."""
    path, equals, name = text.rpartition("=")
    if not equals or not path.startswith("/") or not name:
        raise UsageError(f"--profile {text}: write /PATH=NAME, with a profile's name")
    if name != UNCONFINED:
        policy.profile(name)
    return os.path.realpath(path), name


def _apparmor(chosen: dict[str, Any], program: str) -> Confinement:
    path, name = chosen["apparmor"], ""
    if not os.path.exists(path):
        head, colon, tail = path.rpartition(":")
        if colon and os.path.exists(head):
            path, name = head, tail
    policy = AppArmorPolicy.load(path)
    rules = dict(_profile_rule(text, policy) for text in chosen.get("profile", ()))
    if name:
        policy.profile(name)
    elif os.path.realpath(program) in rules:
        name = rules[os.path.realpath(program)]
    else:
        attached = policy.attached_to(os.path.realpath(program))
        names = policy.names()
        if attached is None and len(names) > 1:
            raise UsageError(
                f"{path}: none of its profiles attaches to {program}; "
                f"choose one: --apparmor {path}:NAME with {', '.join(names)}"
            )
        name = names[0] if attached is None else attached.name
    return Confinement(
        AppArmorLsm(policy, UNCONFINED),
        start=name,
        rules=rules,
        audit=chosen.get("audit"),
        setup={"policy": [os.path.abspath(path)], "profile": name, "rules": rules},
    )
