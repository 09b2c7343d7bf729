"""The cardinality study: many runs, one grid of evaluations, one report."""
