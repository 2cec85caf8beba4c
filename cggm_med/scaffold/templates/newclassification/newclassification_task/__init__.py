"""The task newclassification for cggm-med."""
