"""The contract of a task, and base classes for segmentation, classification and regression."""
