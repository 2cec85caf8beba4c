"""Rules and tools that several strategies share, or that one strategy consists of."""
