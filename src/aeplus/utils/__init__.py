"""Small tools: paths, digests, JSON Lines, tables, progress."""
