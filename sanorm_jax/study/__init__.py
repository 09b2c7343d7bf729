"""Studies: many runs, one grid of evaluations, one report."""
