"""Threads inside an enclave: ENCLU, AEX, exceptions, masks, and accesses from outside."""
