"""Foundations of all other modules: errors, console, commands, files and locks."""
