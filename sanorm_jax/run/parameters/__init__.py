"""Parameters that come from another run or from the original implementation."""
