"""The commands and their options, each described once. Nothing heavy is imported, so ``--help`` answers at once.

``fit`` and ``validate`` are not here: their options come from :class:`~aeplus.commands.fit.EditCLI`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from aeplus.commands.journal.arguments import (
    apply_parser,
    export_parser,
    log_parser,
    show_parser,
    undo_parser,
    verify_parser,
)
from aeplus.commands.options import ANY_FORMAT, MODEL, add_overwrite, add_residual_options
from aeplus.commands.parser import CommandParser
from aeplus.commands.stream.arguments import stream_parser
from aeplus.methods.registry import METHODS

_FIT_OPTIONS = "Every option of aeplus fit is accepted (aeplus fit --help lists them), except --ckpt_path"


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        summary: What ``aeplus --help`` says of it.
        module: The module, below ``aeplus.commands``, with what runs it.
        parser: Makes the parser of its options.
        function: The function ``run(options, rest, command)`` of that module: it gets the parsed options, those of
            ``aeplus fit`` that were among them and the whole command line, and returns the status.
    """

    summary: str
    module: str
    parser: Callable[[], CommandParser]
    function: str = "run"


def compare_parser() -> CommandParser:
    """Options of ``aeplus compare``."""
    parser = CommandParser(
        "compare",
        "Runs every method with every seed on the same edits, each from the unedited model, and writes one table: "
        "Efficacy, Generalization, Specificity, Score, editing time and leakage, as mean ± sample standard deviation "
        "over the seeds. The model is loaded once, and targets that do not depend on the method are computed once. "
        "Finished runs are cached: after Ctrl-C rerun the same command to continue; added methods or seeds run alone.",
        "aeplus compare --config model/smollm2-135m --data.path edits.jsonl --methods all --seeds 0,1,2",
        notes=f"{_FIT_OPTIONS}. model.method gives the numbers that the methods leave open. Without trainer.callbacks, "
        "a run writes no checkpoints and no generations; it always logs to its own folder, FOLDER/METHOD/seed_N, "
        "whatever trainer.logger is. The exit status is 2 if a method could not be run.",
        fit_options=True,
    )
    parser.option(
        "--methods",
        "LIST",
        f"methods separated by commas or spaces, or all (default: all): {', '.join(METHODS)}; YAML files with "
        "model.method; or variants that set fields of model.method, such as alphaedit_plus:relax=none or "
        "alphaedit_plus:max_leakage=0.006:max_growth=null",
        ["all"],
        nargs="+",
    )
    parser.option(
        "--seeds",
        "LIST",
        "seeds separated by commas or spaces, each for model.seed and data.seed (default: 0); {seed} in --data.path "
        "gives each its own edits (edits_{seed}.jsonl), likewise in --data.validation and --data.preserved",
        ["0"],
        nargs="+",
    )
    parser.option(
        "--against",
        "METHOD",
        "compare every method with this one, edit by edit, and give a 95 % interval of the difference of their Scores",
    )
    parser.option(
        "--out",
        "FOLDER",
        "where compare.md, compare.csv, targets and the runs' folders are written",
        os.path.join("lightning_logs", "compare"),
    )
    return parser


def tune_parser() -> CommandParser:
    """Options of ``aeplus tune``."""
    parser = CommandParser(
        "tune",
        "Finds layers, the learning rate of the targets, tau, lambda, alpha, BLUE's own lambda and KDE's learning rate "
        "for a model without a config, on the first ten edits of a file, and writes the YAML. Trials are scored on "
        "paraphrases of the edits and on preserved knowledge, never on test prompts. The model is loaded once. "
        "Finished trials are cached: after Ctrl-C rerun the same command to continue. docs/tune.md describes the "
        "search.",
        "aeplus tune --model.model gpt2 --data.path edits.jsonl --out configs/model/gpt2.yaml",
        notes=f"{_FIT_OPTIONS}, model.seed, data.seed, data.batch_size (all edits are one batch), data.neighbors, "
        "trainer.callbacks and trainer.logger. What is searched replaces the values of a config. Unless set, "
        "data.limit is 10, data.validation_share 1, data.preserved_count 50 and model.method.prior_strength 1.",
        fit_options=True,
    )
    methods = ["alphaedit", "memit", "blue", "kde"]
    parser.option("--out", "FILE", "the YAML to write, such as configs/model/NAME.yaml (required)")
    add_overwrite(parser)
    parser.option(
        "--for",
        "LIST",
        f"the methods to find numbers for, separated by commas or spaces (default: {','.join(methods)}, which are all)",
        methods,
        dest="methods",
        nargs="+",
    )
    parser.option("--fixed-layers", "LIST", "keep these layers, such as 4,5,6,7,8, instead of searching", nargs="+")
    parser.option("--seed", "N", "seed of everything", 0)
    parser.option(
        "--trials",
        "FOLDER",
        "where the table of trials, the finished trials and the targets are written",
        os.path.join("lightning_logs", "tune"),
    )
    return parser


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


def alphaset_parser() -> CommandParser:
    """Options of ``aeplus build-alphaset``."""
    parser = CommandParser(
        "build-alphaset",
        "Builds AlphaSet for a model: three files of edits, each with one kind of conflict, chosen by measuring the "
        "model. alphaset1.jsonl contains K0 facts in other words with another answer (the largest s(k, K0)), "
        "alphaset2.jsonl edits and later the same facts in other words with another answer (s(k, Kp)), alphaset3.jsonl "
        "the edits with the largest residual at the third edited layer (|r|); the rest of each is fill, other edits "
        "that no two sets share. A card (JSON) for each contains averages and histograms of the three quantities. The "
        "same seed makes the same files; see docs/alphaset.md.",
        "aeplus build-alphaset --edits counterfact.json --k0 facts.jsonl --model smollm2-135m --layers 4,5,6,7,8 \\\n"
        "      --scale 0.05 --out alphaset",
    )
    parser.option("--edits", "FILE", f"the pool of edits: {ANY_FORMAT}", required=True)
    parser.option(
        "--k0",
        "FILE",
        "facts as the model knows them, in the same formats (target_true, else target_new, is true); or corpus, for "
        "sentences of --corpus whose last word the model predicts",
        required=True,
    )
    parser.option(
        "--k0-count", "N", "facts to draw with --k0 corpus (default: 4 times those AlphaSet1 takes)", kind=int
    )
    parser.option("--model", "NAME", MODEL, required=True)
    parser.option("--layers", "LIST", "the layers that will be edited, such as 4,5,6,7,8", required=True)
    parser.option("--out", "FOLDER", "where to write", required=True)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="N",
        help="sizes as a multiple of AlphaEdit+'s, 200+800, 200+800 and 300+1200 (default: 1)",
    )
    size.add_argument(
        "--sizes", metavar="LIST", help="the sizes themselves, conflict + fill of each set, such as 20+80,20+80,30+120"
    )
    parser.option(
        "--candidates",
        "N",
        "number of edits of the pool to measure, the slow part (default: 1.5 times the number taken)",
        kind=int,
    )
    add_residual_options(parser)
    parser.option(
        "--corpus",
        "NAME",
        "also measure s(k, K0) against keys of this text, wiki-sample, a file or a data set, and |P k| / |k| with the "
        "K0 facts in its C",
    )
    parser.option("--corpus-tokens", "N", "tokens of it to read", 50_000)
    parser.option("--facts-weight", "N", "how much a K0 fact counts in C, as model.preserved.facts_weight", 0.01)
    parser.option("--threshold", "N", "the null space of C, as model.method.threshold", 0.02)
    _add_rewriter(parser, "the language model that rewrites (default: the model)")
    return parser


def validation_parser() -> CommandParser:
    """Options of ``aeplus build-validation``."""
    parser = CommandParser(
        "build-validation",
        "Builds a validation set, which selects among smoothing candidates: paraphrases of a share of the edits and "
        "of preserved facts, never a test prompt. aeplus fit takes it with --data.validation FILE. A manifest "
        "(FILE.manifest.json) contains hashes of its prompts and of the test prompts that it was checked against; a "
        "run whose test prompts overlap with the set, or whose manifest does not fit, is refused. See "
        "docs/validation.md.",
        "aeplus build-validation --edits edits.jsonl --k0 facts.jsonl --out validation.jsonl --portion 1/3",
        "aeplus fit --config model/gpt2-xl --data.path edits.jsonl --data.validation validation.jsonl",
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
    _add_rewriter(parser, f"the language model that rewrites: {MODEL}")
    add_overwrite(parser)
    return parser


def _add_rewriter(parser: CommandParser, model: str) -> None:
    """The options of :func:`~aeplus.commands.rewriting.named_rewriter`, and the seed."""
    text = "templates, or lm for a language model whose output is checked"
    parser.option("--rewriter", "NAME", text, "templates", choices=("templates", "lm"))
    parser.option("--rewriter-model", "NAME", model)
    parser.option("--seed", "N", "seed of every choice", 0)


def inspect_parser() -> CommandParser:
    """Options of ``aeplus inspect``."""
    parser = CommandParser(
        "inspect",
        "Reports on edits before editing, measured on the unedited model: for each edit s(k,K0) with the nearest "
        "preserved text, s(k,Kp) with the nearest edit of a previous batch (and the same within its batch), the "
        "residual and whether it will be smoothed, the model's current answer, tokenization warnings, and other edits "
        "of the same fact. Test prompts are never read, and nothing is edited. docs/inspect.md describes the report.",
        "aeplus inspect --config model/smollm2-135m --config method/alphaedit_plus \\\n      --data.path edits.jsonl",
        notes=f"{_FIT_OPTIONS}.",
        fit_options=True,
    )
    parser.option(
        "--out",
        "FOLDER",
        "where inspect.jsonl, inspect.html, conflict.png and stream.png are written",
        os.path.join("lightning_logs", "inspect"),
    )
    parser.add_argument(
        "--no-targets",
        dest="targets",
        action="store_false",
        help="optimize no targets, the slowest part; residuals are then unknown",
    )
    parser.option("--rows", "N", "rows of the table in the terminal", 20)
    parser.option("--length", "N", "tokens of the model's current answer", 6)
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
