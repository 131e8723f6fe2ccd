"""A stopped thread: the wait for it, system calls run in it, the ways to let it go on."""
