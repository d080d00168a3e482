"""The paper's tables and figures, each an experiment: a grid of runs, its tables and its figures."""
