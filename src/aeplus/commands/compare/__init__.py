"""``aeplus compare``: several methods on the same edits, and one table."""
