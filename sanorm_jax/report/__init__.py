"""The HTML report and the status of a run."""
