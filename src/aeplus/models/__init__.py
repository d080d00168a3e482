"""Looking into a decoder: edit sites, hooks, replay, tokens, loading."""
