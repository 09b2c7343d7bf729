"""Parameters from another run or from the original implementation."""
