"""What makes a proof worth more: any number of pages, invariants in words, induction."""
