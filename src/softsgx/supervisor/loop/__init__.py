"""The loop: one wait, one stop, one handler. Knows all other rooms, and none knows it."""
