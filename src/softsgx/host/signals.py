"""Signal numbers of x86-64 and the bare calls.

The module ``signal`` makes enumerations of them, which costs 3 ms of every
start; the C module below it is all that running a program needs.
Source: Linux arch/x86/include/uapi/asm/signal.h.
"""

from __future__ import annotations

from _signal import SIG_DFL, SIG_IGN, signal  # type: ignore[import-not-found]

__all__ = ["SIG_DFL", "SIG_IGN", "signal"]

SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP = 1, 2, 3, 4, 5
SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2, SIGPIPE = 9, 10, 11, 12, 13
SIGTERM, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ = 15, 19, 20, 21, 22, 25
