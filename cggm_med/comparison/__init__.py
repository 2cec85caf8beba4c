"""Comparing strategies over seeds: training all runs, and the statistics of their metrics."""
