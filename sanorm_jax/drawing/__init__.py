"""Pictures, as arrays and matplotlib figures; knows no run and no task."""
