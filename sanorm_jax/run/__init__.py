"""Training runs: distribution over processes, folder, and initial parameters."""
