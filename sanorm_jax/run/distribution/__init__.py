"""Processes and devices of a run: discovery, communication and preemption."""
