"""What the model knows: statistics of preserved knowledge, and the journal of edits."""
