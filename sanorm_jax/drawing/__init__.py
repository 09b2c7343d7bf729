"""Figures from arrays, independent of runs and tasks."""
