"""Faults of files, and what the commands say of them."""
