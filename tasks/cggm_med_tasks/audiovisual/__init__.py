"""Sound and vision: spoken digits, CREMA-D, Kinetics-Sounds, UCF101."""
