"""The commands and their options, each described once. Nothing heavy is imported, so ``--help`` answers at once.

``fit`` and ``validate`` are not here: their options come from :class:`~aeplus.commands.fit.EditCLI`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from aeplus.commands.alphaset.arguments import alphaset_parser
from aeplus.commands.compare.arguments import compare_parser
from aeplus.commands.experiment.arguments import experiment_parser
from aeplus.commands.inspect.arguments import inspect_parser
from aeplus.commands.journal.arguments import (
    apply_parser,
    export_parser,
    log_parser,
    show_parser,
    undo_parser,
    verify_parser,
)
from aeplus.commands.options import ANY_FORMAT, MODEL, add_overwrite, add_rewriter
from aeplus.commands.parser import CommandParser
from aeplus.commands.report.arguments import report_parser
from aeplus.commands.stream.arguments import stream_parser
from aeplus.commands.tune.arguments import tune_parser


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        summary: What ``aeplus --help`` says of it.
        module: The module, below ``aeplus.commands``, with what runs it.
        parser: Makes the parser of its options.
        function: The function ``run(options)`` of that module: it gets the parsed options and returns the status. Among
            the options are ``fit_arguments``, those of ``aeplus fit``, and ``command``, the whole command line.
    """

    summary: str
    module: str
    parser: Callable[[], CommandParser]
    function: str = "run"


def demo_data_parser() -> CommandParser:
    """Options of ``aeplus demo-data``."""
    parser = CommandParser(
        "demo-data",
        "Builds the demo's edits (edits.jsonl) and preserved facts (preserved.jsonl) from gensim's "
        "questions-words.txt and the model's answers.",
        "aeplus demo-data --model smollm2-135m --out data/demo",
    )
    parser.option("--model", "NAME", MODEL, "smollm2-135m")
    parser.option("--out", "FOLDER", "where to write", os.path.join("lightning_logs", "demo", "data"))
    return parser


def capabilities_parser() -> CommandParser:
    """Options of ``aeplus capabilities``."""
    parser = CommandParser(
        "capabilities",
        "Measures a model, edited or not, on SST-2, MRPC, MMLU, RTE, CoLA and NLI: weighted F1, accuracy, and "
        "Matthews' correlation for CoLA; or on tasks of EleutherAI's harness. docs/capabilities.md shows the prompts.",
        "aeplus capabilities --model lightning_logs/edits/version_0/model --data data/capabilities --out after.json",
        "aeplus capabilities --model smollm2-135m --harness hellaswag,piqa --limit 200",
    )
    parser.option(
        "--model",
        "NAME",
        "hub id, folder (such as the model that JournalWriter saves), .gguf file or smollm2-135m",
        required=True,
    )
    parser.option("--data", "FOLDER", "contains <task>.jsonl for each task; or hub, for their data sets on the hub")
    parser.option(
        "--tasks",
        "LIST",
        "tasks out of sst2, mrpc, mmlu, rte, cola and nli, separated by commas or spaces, or all (default: all)",
        ["all"],
        nargs="+",
    )
    parser.option("--limit", "N", "items of each task, drawn by the seed, or all (default: 100; with --harness all)")
    parser.option(
        "--shots", "N", "solved examples before each item (default: 0; with --harness the task's own number)", kind=int
    )
    parser.option(
        "--scoring",
        "NAME",
        "likelihood takes the likeliest option, generation the first that a greedy continuation names",
        "likelihood",
    )
    parser.option("--seed", "N", "seed of the items and the examples", 0)
    parser.option("--batch-tokens", "N", "tokens run at once", 2048)
    parser.option(
        "--dtype",
        "NAME",
        "dtype of the weights: auto, float32, bfloat16 or float16 (default: auto, the checkpoint's)",
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    parser.option("--device", "NAME", "such as cpu or cuda:0 (default: cuda if there is one, else cpu)")
    parser.option("--out", "FILE", "write the results as JSON")
    parser.option(
        "--harness",
        "LIST",
        "run tasks of EleutherAI's harness (pip install 'lm-eval>=0.4.13') instead: their names, or task files "
        "(.yaml), separated by commas or spaces",
        nargs="+",
    )
    add_overwrite(parser)
    return parser


def validation_parser() -> CommandParser:
    """Options of ``aeplus build-validation``."""
    parser = CommandParser(
        "build-validation",
        "Builds a validation set, which scores each batch and selects among smoothing candidates: paraphrases of a "
        "share of the edits and of preserved facts, never a test prompt. aeplus fit takes it with --data.validation "
        "FILE. A manifest (FILE.manifest.json) contains hashes of its prompts and of the test prompts that it was "
        "checked against; a run whose test prompts overlap with the set, or whose manifest does not fit, is refused. "
        "See docs/validation.md.",
        "aeplus build-validation --edits edits.jsonl --k0 facts.jsonl --out validation.jsonl --portion 1/3",
        "aeplus fit --config model/gpt2-xl --config method/blue_plus --data.path edits.jsonl \\\n"
        "      --data.validation validation.jsonl",
    )
    parser.option("--edits", "FILE", f"the edits: {ANY_FORMAT}", required=True)
    parser.option("--out", "FILE", "where to write", required=True)
    parser.option(
        "--k0",
        "FILE",
        "preserved facts, in the same formats (target_true, else target_new, is true); without it, beginnings of "
        "sentences of --corpus, with the unedited model's continuation",
    )
    parser.option("--corpus", "NAME", "text for those: wiki-sample, a file or a data set", "wiki-sample")
    parser.option("--share", "N", "share of the edited facts to paraphrase", 0.1)
    parser.option("--preserved", "N", "maximum number of preserved facts to paraphrase", 200)
    parser.option(
        "--portion", "I/N", "the I-th of N portions without a common fact, for one of several experiments", "1/1"
    )
    add_rewriter(parser, f"the language model that rewrites: {MODEL}")
    add_overwrite(parser)
    return parser


def cases_parser() -> CommandParser:
    """Options of ``aeplus cases``."""
    parser = CommandParser(
        "cases",
        "Writes a Markdown page comparing a model's generations before and after editing, per method. A run's folder "
        "contains config.yaml and either checkpoints, whose edits are applied to the model and undone, or an edited "
        "model (model/). The runs must have edited the same model, which is loaded once.",
        "aeplus cases --runs lightning_logs/edits/version_0 lightning_logs/edits/version_1 --count 5 --out cases.md",
    )
    parser.option(
        "--runs", "FOLDER", "folders of runs, such as lightning_logs/edits/version_0", nargs="+", required=True
    )
    parser.option(
        "--count",
        "N",
        "number of edits: the most conflicting ones where a run has edits.jsonl (callback FigureWriter), else spread "
        "over the stream",
        5,
    )
    parser.option(
        "--edits", "LIST", "these edits instead, by their positions in the stream from 1, such as 3,17", nargs="+"
    )
    parser.option("--length", "N", "tokens of each generation", 20)
    parser.option("--out", "FILE", "the page", "cases.md")
    add_overwrite(parser)
    return parser


COMMANDS = {
    "compare": Command("run several methods on the same edits and write one table", "compare.command", compare_parser),
    "report": Command("write one page of runs, comparisons and experiments", "report.command", report_parser),
    "experiment": Command(
        "make a table or figure of the paper: a grid of runs", "experiment.command", experiment_parser
    ),
    "tune": Command("find layers and numbers for a model without a config, and write it", "tune.command", tune_parser),
    "demo-data": Command("build the demo's edits for a model", "demo", demo_data_parser),
    "capabilities": Command(
        "measure a model on six general tasks, or on tasks of EleutherAI's harness", "capabilities", capabilities_parser
    ),
    "build-alphaset": Command(
        "build sets of edits that conflict with what a model knows", "alphaset.command", alphaset_parser
    ),
    "build-stream": Command("draw a stream of edits of one kind from a pool", "stream.command", stream_parser),
    "build-validation": Command(
        "build a validation set for a file of edits, without its test prompts", "validation", validation_parser
    ),
    "inspect": Command(
        "report conflicts, residuals, tokenization issues and contradictions before editing",
        "inspect.command",
        inspect_parser,
    ),
    "cases": Command("write a Markdown page comparing generations before and after editing", "cases", cases_parser),
    "log": Command("list a journal: what was edited, when, and how it scored", "journal.show", log_parser, "log"),
    "show": Command("show one entry of a journal", "journal.show", show_parser, "show"),
    "verify": Command("check that a journal is whole, and of a model", "journal.show", verify_parser, "verify"),
    "apply": Command("put a journal's edits into a fresh copy of its model", "journal.change", apply_parser, "apply"),
    "export": Command("write the edited model, or its edits as an adapter", "journal.export", export_parser),
    "undo": Command("take a batch, a range or one edit out of a journal", "journal.change", undo_parser, "undo"),
}
"""Every command but ``fit`` and ``validate``, by its name."""
