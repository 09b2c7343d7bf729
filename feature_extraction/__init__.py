"""Features of frozen encoders, written once to a store. Nothing here imports JAX."""
