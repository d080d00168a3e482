"""Targets v*: what the edited layers should say, and the keys that ask them."""
