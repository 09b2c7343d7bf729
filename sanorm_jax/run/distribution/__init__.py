"""Processes and devices of a run: who they are, what they agree on, when they stop."""
