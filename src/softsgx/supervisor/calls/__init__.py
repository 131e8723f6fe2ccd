"""System calls that stop: a file a kind, and one table of their handlers."""
