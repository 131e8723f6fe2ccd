"""Reports for people, made of recordings and results only."""
