"""Bits that rules are run on, and the circuits that come of it."""
