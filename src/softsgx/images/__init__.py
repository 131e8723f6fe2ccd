"""Files that enclaves are kept in: read, measured anew, written and signed."""
