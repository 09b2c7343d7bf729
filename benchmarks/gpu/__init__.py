"""One command that proves training on the accelerator at hand, and times it."""
