"""Multimodal networks: one encoder per modality, mask-aware fusion, one head."""
