"""What decides about one bad state: ABC, Z3, explicit search; traces run again on ints."""
