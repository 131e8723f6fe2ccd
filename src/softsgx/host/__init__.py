"""The only room that touches another process or the host itself."""
