"""The style of all figures, and the pictures that several packages draw."""
