"""Slot Attention and its attention normalizations in JAX and Flax."""
