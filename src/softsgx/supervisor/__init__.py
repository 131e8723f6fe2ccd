"""The supervisor: real processes under ptrace, whose events the device answers."""
