"""The designs: one file each, every rule stated once with its source."""
