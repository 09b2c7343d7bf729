"""The ground module: errors, console, command frame, files and locks."""
