"""Options that several commands have, described once."""

from aeplus.commands.parser import CommandParser

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
