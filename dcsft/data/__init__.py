"""Which examples are trained on, and in which order."""
