"""Fill-in-the-middle as pure functions and data: the standard library only, no I/O."""
