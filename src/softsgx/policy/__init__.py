"""The engines that decide as a kernel's LSM would, by its own compiled policy."""
