"""Servers: AESM's socket and a PCCS; what they answer is made in `softsgx.attest`."""
