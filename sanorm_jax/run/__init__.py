"""A run: distribution over processes, its folder, parameters from elsewhere."""
