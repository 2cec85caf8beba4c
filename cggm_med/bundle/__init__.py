"""MONAI bundles: made of trained runs, and training through them."""
