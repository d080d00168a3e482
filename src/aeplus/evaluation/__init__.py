"""Running a model on prompts to measure it: the edits' own tests, drift, general capabilities."""
