"""What can happen: the state, permissions, sources, and each kind of step as a move."""
