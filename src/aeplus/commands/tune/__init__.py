"""``aeplus tune``: hyperparameters for a model without a config, tuned on about ten edits."""
