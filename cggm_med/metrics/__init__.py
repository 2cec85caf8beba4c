"""What a prediction is worth: volumes, lesions, regions, labels."""
