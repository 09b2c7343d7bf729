"""What people read of a run: its page, its state, what needs no learning."""
