"""Metrics: values for each example, collected in a table, one mean at the end."""

from sanorm_jax.metrics.table import Table, count, mean

__all__ = ["Table", "count", "mean"]
