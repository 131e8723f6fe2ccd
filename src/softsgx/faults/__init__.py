"""Faults on purpose: which there are, rules that name them, and when one is due."""
