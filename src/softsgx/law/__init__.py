"""The form in which every rule of softsgx is written, and what evaluates it."""
