"""``aeplus inspect``: a report on edits before any of them is made."""
