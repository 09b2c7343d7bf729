"""Foundations of all other modules: errors, console, commands and files."""
