"""The options of ``aeplus build-stream``; light imports only."""

from aeplus.commands.options import ANY_FORMAT, MODEL, add_overwrite, add_residual_options
from aeplus.commands.parser import CommandParser

KINDS = ("plain", "rewrites", "same_subject", "preserved", "inconsistent", "long")


def stream_parser() -> CommandParser:
    """Options of ``aeplus build-stream``."""
    parser = CommandParser(
        "build-stream",
        "Draws a stream of edits of one kind from a pool of records, with test prompts: Generalization behind "
        "openings, in other statements and in the data's own words, and neighbors that the stream does not edit. The "
        "same seed makes the same file. Subjects are split by a digest: a stream of --split tuning never has a subject "
        "of one of --split test. docs/streams.md describes the kinds.",
        "aeplus build-stream --kind plain --data.path gensim:world-facts --count 50 --seed 0 --out plain_0.jsonl",
        "aeplus build-stream --kind preserved --data.path gensim:world-facts --count 30 --out named.jsonl\n"
        "  aeplus fit … --data.path named.jsonl --model.preserved.facts named.facts.jsonl",
    )
    parser.option(
        "--kind",
        "NAME",
        "plain: an edit per subject; rewrites: a share of the facts is edited again, to another answer; same_subject: "
        "several facts of a subject, in one batch or spread over batches; preserved: edits of subjects whose other "
        "facts are named in a second file; inconsistent: the edits with the largest |r| of a model; long: an edit per "
        "fact, a shorter stream begins a longer one",
        required=True,
        choices=KINDS,
    )
    parser.option("--data.path", "FILE", f"the pool: {ANY_FORMAT}, or gensim:world-facts", dest="path", required=True)
    parser.option("--count", "N", "edits of the stream", 50)
    parser.option("--seed", "N", "seed of every choice", 0)
    parser.option("--out", "FILE", "where to write", required=True)
    parser.option(
        "--split",
        "NAME",
        "the side of the pool to draw from: test, tuning (15 % of the subjects) or all",
        "test",
        choices=("test", "tuning", "all"),
    )
    parser.option(
        "--tests",
        "LIST",
        "ways to ask for Generalization out of openings, statements and rephrase, the data's own (default: all three)",
        ["openings", "statements", "rephrase"],
        nargs="+",
    )
    parser.option("--share", "N", "rewrites: share of the facts that is edited again", 0.5)
    parser.option("--batch-size", "N", "same_subject: data.batch_size of the run", 10)
    parser.option("--facts-out", "FILE", "preserved: where the facts are written (default: FILE.facts.jsonl)")
    parser.option("--model", "NAME", f"inconsistent: {MODEL}", "smollm2-135m")
    parser.option("--layers", "LIST", "inconsistent: the layers that will be edited", "4,5,6,7,8")
    parser.option(
        "--candidates", "N", "inconsistent: number of edits to measure (default: three times --count)", kind=int
    )
    add_residual_options(parser)
    add_overwrite(parser)
    return parser
