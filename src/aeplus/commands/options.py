"""Options that several commands have, described once, and how their lists are read."""

import re

from aeplus.commands.parser import CommandParser
from aeplus.errors import InputError

ANY_FORMAT = "a file or hub id in any format that aeplus fit reads"
FIT_OPTIONS = "Every option of aeplus fit is accepted (aeplus fit --help lists them), except --ckpt_path"
MODEL = "hub id, folder, .gguf file or smollm2-135m"


def add_overwrite(parser: CommandParser) -> None:
    """``--overwrite``."""
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")


def add_residual_options(parser: CommandParser) -> None:
    """How targets are optimized where a command measures ‖r‖."""
    parser.option(
        "--steps",
        "N",
        "maximum number of gradient steps for a residual's target (default: 25; 5 give nearly the same ranking in a "
        "fifth of the time)",
        25,
    )
    parser.option(
        "--learning-rate",
        "N",
        "learning rate of those steps (default: 0.5); take model.targets.learning_rate of the model's config",
        0.5,
    )
    parser.option("--clamp", "N", "maximum norm of the residual, relative to the hidden state", 0.75)


def add_rewriter(parser: CommandParser, model: str) -> None:
    """The options of :func:`~aeplus.commands.rewriting.named_rewriter`, and the seed."""
    text = "templates, or lm for a language model whose output is checked"
    parser.option("--rewriter", "NAME", text, "templates", choices=("templates", "lm"))
    parser.option("--rewriter-model", "NAME", model)
    parser.option("--seed", "N", "seed of every choice", 0)


def split_list(text: str) -> list[str]:
    """The items of a list; empty ones are dropped.

    Example:
        >>> split_list("alphaedit, memit blue")
        ['alphaedit', 'memit', 'blue']
    """
    return [item for item in re.split(r"[\s,]+", text) if item]


def parse_layers(text: str, option: str) -> list[int]:
    """The layers that an option lists, brackets or not.

    Args:
        text: The list, such as ``4,5,6`` or ``[4, 5, 6]``.
        option: The option's name, for the message.

    Raises:
        InputError: If an item is not a whole number, or there is none.
    """
    layers = split_list(re.sub(r"[\[\]]", " ", text))
    if not layers or not all(layer.isdecimal() for layer in layers):
        msg = f"expected layers after {option}, got {text!r}; write for example {option} 4,5,6,7,8."
        raise InputError(msg)
    return [int(layer) for layer in layers]
