"""Numerical parity with the reference: `python -m tests.parity --vectors=DIR`."""
