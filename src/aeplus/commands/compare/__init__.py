"""``aeplus compare``: every method on the same edits, and one table."""
