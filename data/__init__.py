"""Datasets: their sources, the store, and the pipelines that read it."""
