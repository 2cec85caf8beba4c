"""One scan from file to patch and back: checks, labels, preprocessing, patches, masks."""
