"""The designs by name, with their options as ``NAME:OPTION=VALUE,…``, or ``NAME:repaired``."""

from __future__ import annotations

from collections.abc import Mapping

from softsgx.designs.allowed_prot import AllowedProt
from softsgx.designs.base import Design
from softsgx.designs.ema import Ema
from softsgx.designs.execute_intent import ExecuteIntent
from softsgx.designs.fsm import Fsm
from softsgx.designs.ioc_mprotect import IocMprotect
from softsgx.designs.linux import DEFAULT, Linux60, Linux511
from softsgx.designs.maxperm import MaxPerm
from softsgx.designs.safe_to_execute import SafeToExecute
from softsgx.designs.segments import Segments
from softsgx.designs.sgx2_v2 import Sgx2V2
from softsgx.designs.sigstruct_proxy import SigstructProxy
from softsgx.designs.source_vma import SourceVma
from softsgx.designs.v20 import V20
from softsgx.errors import UsageError

__all__ = ["DESIGNS", "design_text", "make_design"]

_SHIPPED = (DEFAULT, Linux60, Linux511)
_MAY_2019 = (V20, SafeToExecute, SourceVma, Segments, IocMprotect)

DESIGNS: dict[str, type[Design]] = {
    cls.name: cls
    for cls in (
        *_SHIPPED,
        *_MAY_2019,
        MaxPerm,
        SigstructProxy,
        ExecuteIntent,
        AllowedProt,
        Ema,
        Fsm,
        Sgx2V2,
    )
}
"""Every design that can be selected, the default first."""


def make_design(text: str) -> Design:
    """The design that ``text`` names. Raises UsageError for an unknown name or option.

    The word ``repaired`` among the options stands for those of `Design.repaired`.
    """
    name, _, rest = text.partition(":")
    cls = DESIGNS.get(name)
    if cls is None:
        raise UsageError(f"no design {name!r}; there are {', '.join(DESIGNS)}")
    chosen: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        if part == "repaired":
            if not cls.repaired:
                raise UsageError(f"design {name} has no repairs")
            chosen = cls.repaired | chosen
            continue
        option, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"design {name}: {part!r} is not OPTION=VALUE")
        chosen[option] = value
    return cls(**chosen)


def design_text(name: str, chosen: Mapping[str, str], *, word: bool = True) -> str:
    """A text that `make_design` takes for a design with these options, without the defaults.

    word: ``NAME:repaired`` where all repairs are made, whatever other options say.
    """
    cls = DESIGNS.get(name)
    repaired = cls.repaired if cls is not None and word else {}
    if repaired and all(chosen[n] == v for n, v in repaired.items()):
        return f"{name}:repaired"
    usual = {} if cls is None else {n: values[0] for n, values in cls.options.items()}
    other = [f"{n}={v}" for n, v in chosen.items() if usual.get(n) != v]
    return name + (":" + ",".join(other) if other else "")
