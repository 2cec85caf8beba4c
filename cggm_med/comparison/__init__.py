"""Strategies compared over seeds: training all runs, and statistics of what they score."""
