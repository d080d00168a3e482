"""The options of ``aeplus report``; light imports only."""

from aeplus.commands.options import add_overwrite
from aeplus.commands.parser import CommandParser


def report_parser() -> CommandParser:
    """Options of ``aeplus report``."""
    parser = CommandParser(
        "report",
        "Writes one HTML page of runs, without anything that is loaded from elsewhere, and the same as Markdown: what "
        "ran, tables, paired differences, figures, retention, conflict, cost, environment, and the commands to repeat "
        "it. Runs of aeplus fit that made the same edits of the same model become one comparison.",
        "aeplus report lightning_logs/edits/version_0",
        "aeplus report lightning_logs/edits/version_0 lightning_logs/edits/version_1 --markdown report.md",
        "aeplus report lightning_logs/compare --against alphaedit --out compare.html",
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="folders of aeplus fit (a version_N), of aeplus compare (its --out) or of an experiment",
    )
    parser.option("--out", "FILE", "the page", "report.html")
    parser.option("--markdown", "FILE", "write it as Markdown too, with links to the figures that the runs wrote")
    parser.option(
        "--against",
        "METHOD",
        "compare every other run with this one, as the tables call it (default: the first of each comparison; of "
        "an experiment what its claim says is surpassed)",
    )
    add_overwrite(parser)
    return parser
