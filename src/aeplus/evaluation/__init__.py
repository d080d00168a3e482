"""Measuring a model on prompts: the edits' own tests, drift, general capabilities."""
