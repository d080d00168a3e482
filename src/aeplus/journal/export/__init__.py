"""A journal's edits in the forms that others read: a model's folder, an adapter, factors, GGUF."""
