"""What is known of a run, as plain data; nothing here calls a handler."""
