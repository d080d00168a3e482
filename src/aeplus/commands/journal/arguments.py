"""The options of the commands on a journal. Nothing heavy is imported."""

from aeplus.commands.parser import CommandParser

_RUN = "a run's folder, such as lightning_logs/edits/version_0, or the folder of a journal"
_BASE = "the base model, unedited (default: the one that the journal names)"
_FORMATS = ("huggingface", "peft", "delta", "gguf")
_EXAMPLE = "lightning_logs/edits/version_0"


def log_parser() -> CommandParser:
    """Options of ``aeplus log``."""
    text = "Lists what was edited, when, and how it scored: a line for every batch, and for every undo."
    parser = CommandParser("log", text, f"aeplus log {_EXAMPLE}")
    parser.add_argument("journal", metavar="DIR", help=_RUN)
    parser.add_argument("--edits", action="store_true", help="list every edit too")
    return parser


def show_parser() -> CommandParser:
    """Options of ``aeplus show``."""
    text = "Shows everything that one entry of a journal says: its edits, measurements, settings and digests."
    parser = CommandParser("show", text, f"aeplus show {_EXAMPLE} 3")
    parser.add_argument("journal", metavar="DIR", help=_RUN)
    parser.add_argument("entry", metavar="N", type=int, help="its number, from 1")
    parser.add_argument("--json", action="store_true", help="print it as JSON, with the settings")
    return parser


def verify_parser() -> CommandParser:
    """Options of ``aeplus verify``."""
    text = (
        "Computes every digest of a journal again and names the first entry that is damaged. With --model, checks too "
        "that the model is the one that the edits belong to, unedited."
    )
    parser = CommandParser("verify", text, f"aeplus verify {_EXAMPLE} --model smollm2-135m")
    parser.add_argument("journal", metavar="DIR", help=_RUN)
    parser.option("--model", "NAME", "the base model, to be checked too")
    return parser


def apply_parser() -> CommandParser:
    """Options of ``aeplus apply``."""
    text = "Puts the edits of a journal into a fresh copy of the base model and saves that. Nothing is computed anew."
    parser = CommandParser("apply", text, f"aeplus apply {_EXAMPLE} --model smollm2-135m --out edited")
    parser.add_argument("journal", metavar="DIR", help=_RUN)
    parser.option("--model", "NAME", _BASE)
    parser.option("--out", "FOLDER", "where to save the edited model", required=True)
    return parser


def undo_parser() -> CommandParser:
    """Options of ``aeplus undo``."""
    text = (
        "Takes a batch, a range of batches or one edit out of a journal, and reports what that did to the other edits. "
        "The journal keeps everything; the undo is one more entry of it. aeplus apply, or --out, gives the model."
    )
    parser = CommandParser(
        "undo",
        text,
        f"aeplus undo {_EXAMPLE} 3",
        f"aeplus undo {_EXAMPLE} 2-4 --mode replay --out edited",
        f"aeplus undo {_EXAMPLE} 3 --edit 2",
    )
    parser.add_argument("journal", metavar="DIR", help=_RUN)
    parser.add_argument("entries", metavar="N", help="the batch, as aeplus log numbers it, or a range such as 2-4")
    parser.option("--edit", "K", "take out this edit of the batch only, from 1", kind=int)
    parser.option(
        "--mode",
        "NAME",
        "subtract takes exactly its update out; replay solves the later batches again, as if it had never been made",
        "subtract",
        choices=("subtract", "replay"),
    )
    parser.option("--model", "NAME", _BASE)
    parser.option("--out", "FOLDER", "save the model without these edits there")
    return parser


def export_parser() -> CommandParser:
    """Options of ``aeplus export``."""
    text = (
        "Writes the edits of a journal in a form that others read, with a card: the edited model as a Hugging Face "
        "folder (huggingface), a LoRA adapter that peft, vLLM, SGLang and llama.cpp read alike (peft), or the factors "
        "of each weight's change for three lines of plain torch (delta), or the GGUF file that the model came from, "
        "with its edited weights (gguf). docs/export.md describes them."
    )
    parser = CommandParser(
        "export",
        text,
        f"aeplus export {_EXAMPLE} --format huggingface --out edited",
        f"aeplus export {_EXAMPLE} --format peft --out adapter --check http://localhost:8000",
    )
    parser.add_argument("journal", metavar="DIR", help=_RUN)
    parser.option("--format", "NAME", "huggingface, peft, delta or gguf", choices=_FORMATS, required=True)
    parser.option("--out", "FOLDER", "where to write", required=True)
    parser.option("--model", "NAME", _BASE)
    parser.option("--rank", "N", "rank of the adapter (default: the smallest that --tolerance allows)", kind=int)
    parser.option("--tolerance", "N", "largest relative error of a layer's change in the adapter", 1e-6)
    parser.option("--prefix", "TEXT", "what stands before the modules' names in the adapter", "base_model.model.")
    parser.add_argument("--per-batch", action="store_true", help="one adapter per batch: unloading it takes it out")
    parser.option("--shard", "SIZE", "largest file of a saved model", "5GB")
    parser.option("--source", "FILE", "the base model's GGUF file, for gguf (default: the one that the journal names)")
    parser.option("--push", "REPO", "upload the folder to this repository of the hub, made if it is missing")
    parser.option("--check", "URL", "ask a running server of the OpenAI kind whether it serves the edits")
    parser.option("--served", "NAME", "what the server calls the adapter or model (default: the last that it lists)")
    return parser
