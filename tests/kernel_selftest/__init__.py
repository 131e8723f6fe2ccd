"""The kernel's own SGX selftest, built unmodified from Debian's kernel sources."""
