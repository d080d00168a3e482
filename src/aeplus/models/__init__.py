"""Model access: loading, edit sites, hooks, tokens, partial forward passes, predictions and generation."""
