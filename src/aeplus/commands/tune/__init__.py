"""``aeplus tune``: hyperparameters for a model that has no config, found on a handful of edits."""
