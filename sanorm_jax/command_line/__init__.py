"""What is typed: the flags of a config, and the command `sanorm`."""
