"""The edited model in other forms."""
