"""Flax Linen modules of Slot Attention and the models around it."""
