"""softsgx: a software SGX device for x86-64 Linux machines without SGX."""
