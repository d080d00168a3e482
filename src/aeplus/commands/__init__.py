"""The commands beside ``fit`` and ``validate``: a module each, with ``HELP`` and ``run(words)``."""

COMMANDS = {
    "compare": "run several methods on the same edits and make one table",
    "tune": "find layers and numbers for a model that has no config, and write the config",
    "demo-data": "build the demo's edits for a model",
}
"""What ``aeplus --help`` says of each. The module of ``demo-data`` is ``commands.demo_data``."""
