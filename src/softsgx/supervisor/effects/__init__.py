"""What the model says, carried out in real processes."""
