"""Many runs: a program with one fault at a time, and programs under many configurations."""
