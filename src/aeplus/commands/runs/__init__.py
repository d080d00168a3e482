"""Runs that several commands make or read: their outcomes, folders, and those that are kept."""
