"""What is written down of a run: its recording, and audit lines."""
