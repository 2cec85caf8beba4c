"""A page to look at a case: scans with true and predicted regions."""
