"""Preserved knowledge: its text, and the statistics of the keys that it gives."""
