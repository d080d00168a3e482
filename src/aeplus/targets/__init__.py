"""Target values v* and the keys they are written to."""
