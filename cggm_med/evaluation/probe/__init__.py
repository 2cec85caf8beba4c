"""How well each encoder of a run was trained, by linear probes."""
