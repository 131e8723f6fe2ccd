"""Looks for holes in a design: the rules that the device enforces, over every sequence of calls."""
