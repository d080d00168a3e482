"""Committed batches: in memory, as a chain of records on disk, and the store that a run writes them to."""
