"""An encoder and a fusion from another package."""
