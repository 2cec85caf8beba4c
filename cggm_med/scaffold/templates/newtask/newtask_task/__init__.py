"""The task newtask for cggm-med."""
