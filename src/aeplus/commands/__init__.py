"""The commands beside ``fit`` and ``validate``: a module each, with ``HELP`` and ``run(words)``."""

COMMANDS = {
    "compare": "run several methods on the same edits and make one table",
    "tune": "find layers and numbers for a model that has no config, and write the config",
    "demo-data": "build the demo's edits for a model",
    "capabilities": "measure a model on six general tasks, or on tasks of EleutherAI's harness",
    "build-alphaset": "make sets of edits that conflict with what a model knows, by measuring it",
    "build-validation": "make a validation set for a file of edits, without any of its test prompts",
    "inspect": "look at edits before any is made: conflict, residuals, odd tokens, contradictions",
    "cases": "write what the model says before and after some edits, per method, as one page",
}
"""What ``aeplus --help`` says of each. The module of ``demo-data`` is ``commands.demo_data``."""

MODULES = {
    "compare": "compare.command",
    "tune": "tune.command",
    "demo-data": "demo",
    "capabilities": "capabilities",
    "build-alphaset": "alphaset.command",
    "build-validation": "validation",
    "inspect": "inspect.command",
    "cases": "cases",
}
