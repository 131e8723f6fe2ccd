"""The random walk: memory calls of all kinds on enclaves, on real processes and on the model."""
