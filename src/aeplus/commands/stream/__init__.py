"""Streams of edits of six kinds, drawn from any pool of records."""
