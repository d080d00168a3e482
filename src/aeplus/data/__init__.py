"""Edits: readers, the stream, the validation set, the demo."""
