"""Packages to start from: a new task, written to a folder and ready to train."""
