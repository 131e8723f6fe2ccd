"""What the checker says, as files that programs of others read and verify."""
