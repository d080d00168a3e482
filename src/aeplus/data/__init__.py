"""Edits: formats and readers, the stream, paraphrases and the validation set."""
