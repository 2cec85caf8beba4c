"""The numbers of one evaluation, how they are averaged, and their tables."""
