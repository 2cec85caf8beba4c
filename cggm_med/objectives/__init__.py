"""What training minimises, and what strategies compare modalities by."""
