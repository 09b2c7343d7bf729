"""Parity with the original implementation: `python -m tests.parity --vectors=DIR`."""
