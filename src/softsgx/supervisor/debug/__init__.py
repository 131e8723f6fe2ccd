"""Debugging: what a client of GDB's remote protocol asks of a run, and what it hears of it."""
