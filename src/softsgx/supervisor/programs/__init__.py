"""Programs: the launch, what exec puts into a process, CPUID."""
