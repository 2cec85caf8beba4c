"""MONAI bundles: exporting trained runs, and training through a bundle's configuration."""
