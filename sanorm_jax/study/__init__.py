"""Studies: several runs, evaluated on one grid and compared in one report."""
