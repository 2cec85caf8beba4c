"""Splits of the field by name: the case lists that papers on missing modalities score on, and their table."""
