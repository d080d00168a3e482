"""`aeplus report`: one page of runs, comparisons and experiments."""
