"""The kernel's memory management, as far as a process that maps enclaves can see it."""
