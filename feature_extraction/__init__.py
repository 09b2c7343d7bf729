"""Features of frozen encoders, written once to a store. Never imports jax."""
