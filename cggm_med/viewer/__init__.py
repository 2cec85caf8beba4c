"""An HTML page of one case: its scans with true and predicted regions."""
