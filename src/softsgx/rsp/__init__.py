"""The remote serial protocol of GDB, pure: packets, thread ids, signals, registers."""
