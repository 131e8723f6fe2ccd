"""The kernel's own SGX driver as a user-space library, and the judge of softsgx's rules by it."""
