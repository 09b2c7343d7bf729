"""Metrics, collected for each example and averaged at the end."""

from sanorm_jax.metrics.table import Table, count, mean

__all__ = ["Table", "count", "mean"]
