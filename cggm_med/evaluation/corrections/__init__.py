"""Correction by hand: the worst cases to a viewer that draws, and corrected masks back into the data."""
