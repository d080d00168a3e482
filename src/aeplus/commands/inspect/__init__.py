"""``aeplus inspect``: a report on edits before editing."""
