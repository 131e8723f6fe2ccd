"""Lutomirski's update of 30 May 2019, in its two proposals: whether a page is meant to be executed.

"Unfortunately, Sean convinced me that MAXPERM doesn't work the way I described it because, for
SGX2, the enclave loader won't know at load time whether a given EAUG-ed page will ever be
executed." What is known of a page is one bit. By the static proposal the loader says it at EADD,
and the LSM is asked whether it may; by the dynamic one the LSM says it, and refuses no page. To map
W and X at once takes EXECMEM, X without the bit EXECMOD; "they require no permissions in the other
cases". That a page which "has ever been W" takes EXECMOD is required by the mail; neither of
its proposals asks for it.
"""

from __future__ import annotations

from errno import EACCES, EFAULT
from typing import Any, ClassVar

from softsgx.designs.base import Ways
from softsgx.designs.seed import SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import Value, W, X, any_, has, no
from softsgx.sgx.epcm import PAGE

__all__ = ["ExecuteIntent"]

_MAIL = "Lutomirski, 30 May 2019: "


class ExecuteIntent(SeedDesign):
    """``execute-intent``. ``page.intent``: execute_intent."""

    name = "execute-intent"
    title = "Lutomirski's execute_intent: one bit from EADD on, and X without it takes EXECMOD"
    page_schema = PAGE.extend(intent=1)
    declares = "intent"
    declarable = X
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        "proposal": ("static", "dynamic"),
        # "EXECMOD to what file?" "I leave that decision to you :)".
        "execmod": ("device", "sigstruct"),
        # "SGX can (when initially upstreamed or later on once there's demand) call a new hook".
        "launch": ("unasked", "asked"),
    }

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        of = self.chosen["execmod"]
        self.authority: Ways = (((of, "execmod"),), (("process", "execmem"),))  # type: ignore[misc]
        self.vets_sigstruct = self.chose("execmod", "sigstruct") or self.chose("launch", "asked")
        if self.chose("proposal", "static"):
            # The ioctl that takes execute_intent is ADD_REGION.
            self.add_page = None  # type: ignore[assignment]
            self.enclave_load = None  # type: ignore[assignment]
        else:
            self.declares = ""
            self.enclave_load_intent = None  # type: ignore[assignment]

    def demands_authority(self, page: Any) -> Value:
        """Which pages run only with authority, by the design."""
        return no(page.intent)

    # -- pages -------------------------------------------------------------------------

    @rule(_MAIL + 'dynamic: "EADD does not take any special flags"', each=True)
    def add_page(self, k: Context, at: Any, r: Any) -> None:
        """The same as ADD_REGION."""
        self.add_region(k, at, r)

    @rule(_MAIL + 'static: "EADD takes an execute_intent flag. It calls a new hook"', each=True)
    def add_region(self, k: Context, at: Any, r: Any) -> None:
        """EADD of one page; the hook, with the source at hand, comes first."""
        k.need(EFAULT, at.source.found, "a VMA at src or above it")
        if self.chose("proposal", "static"):
            intent = self.enclave_load_intent(k, at, r)
        else:
            intent = self.enclave_load(k, at, r)
        self.load_from(k, at, r, intent=intent)
        at.page.intent = at.source.intent

    @rule(
        _MAIL + '"This hook will fail if execute_intent==true and the caller has neither EXECUTE, '
        'EXECMOD, nor EXECMEM"',
        each=True,
    )
    def enclave_load_intent(self, k: Context, at: Any, r: Any) -> Value:
        """Static: who means to execute a page holds one of three, asked one after the other."""
        intent = has(r.intent, X)
        execute = k.granted("enclave_load_execute", at, when=intent)
        execmod = k.granted("enclave_load_execmod", at, when=intent & no(execute))
        neither = intent & no(execute) & no(execmod)
        execmem = k.granted("enclave_load_execmem", at, when=neither)
        k.need(EACCES, execute | execmod | execmem, "LSM enclave_load: EXECUTE, EXECMOD or EXECMEM")
        return intent

    @rule(
        _MAIL + '"bool execute_intent = true; … security_enclave_load() may set *execute_intent to '
        'false. The driver records execute_intent after the LSM is done"',
        each=True,
    )
    def enclave_load(self, k: Context, at: Any, r: Any) -> Value:
        """Dynamic: the LSM's answer is the bit, and no page is refused."""
        return k.granted("enclave_load_dynamic", at)

    def made(self, k: Context, at: Any, r: Any) -> None:
        """EAUG "sets execute_intent = false"."""
        at.page.intent = 0

    # -- EINIT -------------------------------------------------------------------------

    @rule("Linux sgx_encl_init(); " + _MAIL + '"EINIT … security_enclave_init(sigstruct, source)"')
    def init(self, k: Context, at: Any, r: Any) -> None:
        """EINIT, about which the LSM may be asked, too."""
        if self.chose("launch", "asked"):
            k.ask("enclave_init", at)
        super().init(k, at, r)

    # -- mapping -----------------------------------------------------------------------

    def ask_mmap(self, k: Context, at: Any, r: Any) -> None:
        """Both calls "require no permissions in the other cases"."""

    def ask_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """As for mmap."""

    @rule(
        _MAIL + '"mmap() and mprotect() will require EXECMEM to create WX or RWX mappings. They '
        'will require EXECMOD to create RX or X mappings of an execute_intent==false page"'
    )  # fmt: skip
    def may_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """EXECMEM for W and X at once; EXECMOD for X of a page without intent, or of none."""
        x, w = has(r.prot, X), has(r.prot, W)
        k.ask("enclave_execmem", at, when=x & w)
        intent = at.page.present & at.page.intent
        without = any_(x & no(w) & no(intent))
        hook = "sigstruct_execmod" if self.chose("execmod", "sigstruct") else "file_execmod"
        k.ask(hook, at, when=without)

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """sgx_mmap()."""
        self.may_mprotect(k, at, r)

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """sgx_vma_mprotect()."""
        self.may_mprotect(k, at, r)
