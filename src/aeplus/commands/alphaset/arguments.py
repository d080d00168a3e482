"""The options of ``aeplus build-alphaset``; light imports only."""

from aeplus.commands.options import ANY_FORMAT, MODEL, add_residual_options, add_rewriter
from aeplus.commands.parser import CommandParser


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
        "aeplus build-alphaset --edits gensim:world-facts --k0 corpus --model smollm2-135m --layers 4,5,6,7,8 \\\n"
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
    add_rewriter(parser, "the language model that rewrites (default: the model)")
    return parser
