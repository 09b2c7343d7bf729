"""The folder of a run: checkpoints, metrics, results, compiled programs."""
