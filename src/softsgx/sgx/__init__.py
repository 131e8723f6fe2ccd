"""SGX pages and instructions, pure: no process, no file, no Linux name."""
