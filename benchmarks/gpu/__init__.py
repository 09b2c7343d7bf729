"""Correctness and speed of training on a GPU, in one command."""
