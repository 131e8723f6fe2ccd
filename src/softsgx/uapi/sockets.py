"""AF_UNIX's addresses as Linux has them, and the one that programs find AESM at."""

from __future__ import annotations

__all__ = ["AESM_SOCKET", "AF_UNIX", "SUN_PATH", "SUN_PATH_SIZE"]

AF_UNIX = 1

# Linux, include/uapi/linux/un.h, struct sockaddr_un.
SUN_PATH, SUN_PATH_SIZE = 2, 108

AESM_SOCKET = "/var/run/aesmd/aesm.socket"
"""Of Intel's architectural enclave service manager (linux-sgx, SocketConfig.h)."""
