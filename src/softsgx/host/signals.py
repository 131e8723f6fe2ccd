"""Signal numbers of x86-64 and the bare calls.

The module ``signal`` makes enumerations of them, which costs 3 ms of every
start; the C module below it is all that running a program needs.
Source: Linux arch/x86/include/uapi/asm/signal.h.
"""

from __future__ import annotations

from _signal import (  # type: ignore[import-not-found]
    SIG_BLOCK,
    SIG_DFL,
    SIG_IGN,
    SIG_SETMASK,
    SIG_UNBLOCK,
    getsignal,
    pthread_sigmask,
    signal,
    sigtimedwait,
    sigwaitinfo,
)

__all__ = [
    "SIG_BLOCK",
    "SIG_DFL",
    "SIG_IGN",
    "SIG_SETMASK",
    "SIG_UNBLOCK",
    "getsignal",
    "pthread_sigmask",
    "signal",
    "sigtimedwait",
    "sigwaitinfo",
]

SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP = 1, 2, 3, 4, 5
SIGBUS, SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2, SIGPIPE = 7, 9, 10, 11, 12, 13
SIGSYS = 31
SIGTERM, SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU = 15, 17, 18, 19, 20, 21, 22
SIGURG, SIGXFSZ, SIGWINCH = 23, 25, 28
