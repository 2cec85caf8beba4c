"""The task newsegmentation for cggm-med."""
