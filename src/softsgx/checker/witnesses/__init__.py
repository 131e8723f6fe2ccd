"""What a trace is worth: in words, as a script for real processes, its policy, its evidence."""
