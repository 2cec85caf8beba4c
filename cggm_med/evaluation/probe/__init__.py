"""Linear probes: how well each encoder of a run was trained."""
