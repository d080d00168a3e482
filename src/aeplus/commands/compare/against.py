"""The third table of a comparison: each method against one of them, edit by edit."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from aeplus.commands.runs.outcome import Outcome
from aeplus.errors import InputError
from aeplus.metrics.mean import Interval
from aeplus.metrics.paired import Hits, score_difference
from aeplus.utils.cache import digest
from aeplus.utils.jsonl import read_json
from aeplus.utils.tables import markdown_table, print_table
from aeplus.utils.yaml_files import read_yaml

HEADER = ["method", "Score, difference", "95 % interval", "runs"]
LEGEND = (
    "Points of Score; edits drawn with replacement, the same for both methods and for runs on the same edits (paired "
    "bootstrap)."
)


_BESIDE = ("batch_size", "neighbors", "preserved", "preserved_count", "snippet_corpus")
"""Settings of the data, beside those of validation, that do not say which edits there are."""


def check_against(against: str | None, methods: Sequence[str]) -> None:
    """Checks that the method to compare with is among those that run.

    Raises:
        InputError: If it is not.
    """
    if against is not None and against not in methods:
        msg = f"expected --against one of the methods ({', '.join(methods)}), got {against!r}; name it as in --methods."
        raise InputError(msg)


class Against:
    """Compares the methods of a comparison with one of them.

    Args:
        method: Its label; ``None`` to compare nothing.
        folders: Where the runs are, by method and seed.
    """

    def __init__(self, method: str | None, folders: Mapping[tuple[str, int], Path]) -> None:
        self._method, self._folders = method, folders
        self._found: dict[tuple[str, tuple[int, ...]], Interval] = {}

    @property
    def title(self) -> str:
        """What the table is called."""
        return f"Score against {self._method}"

    def rows(self, outcomes: Sequence[Outcome], methods: Sequence[str]) -> list[list[str]]:
        """A row for every other method that has run with seeds that this one has run with.

        Args:
            outcomes: The outcomes of the runs so far.
            methods: Labels in the order of the rows.
        """
        done = {(o.method, o.seed) for o in outcomes if o.error is None}
        rows = []
        for method in methods:
            seeds = [seed for label, seed in sorted(done) if label == method and (self._method, seed) in done]
            if self._method is None or method == self._method or not seeds:
                continue
            found = self._difference(method, tuple(seeds))
            interval = f"{found['low']:+.1f} to {found['high']:+.1f}"
            rows.append([method, f"{found['value']:+.1f}", interval, str(len(seeds))])
        return rows

    def markdown(self, outcomes: Sequence[Outcome], methods: Sequence[str]) -> str:
        """The table as Markdown, with line breaks around it; nothing where there is none."""
        rows = self.rows(outcomes, methods)
        if not rows:
            return ""
        return f"\nAgainst {self._method}:\n\n{markdown_table(HEADER, rows, left=HEADER[:1])}\n{LEGEND}\n"

    def show(self, outcomes: Sequence[Outcome], methods: Sequence[str]) -> None:
        """Prints the table, where there is one."""
        if rows := self.rows(outcomes, methods):
            print_table(self.title, HEADER, rows, left=HEADER[:1])

    def _difference(self, method: str, seeds: tuple[int, ...]) -> Interval:
        """How much higher a method's Score is; found once, as the table is written after every run."""
        assert self._method is not None
        if (method, seeds) not in self._found:
            ours, theirs = ([self._hits(name, seed) for seed in seeds] for name in (method, self._method))
            edits = [_edits(self._folders[method, seed]) or str(seed) for seed in seeds]
            self._found[method, seeds] = score_difference(ours, theirs, edits=edits)
        return self._found[method, seeds]

    def _hits(self, method: str, seed: int) -> Hits:
        hits: Hits = read_json(self._folders[method, seed] / "metrics.json")["hits"]
        return hits


def _edits(folder: Path) -> str:
    """A digest of which edits a run has made; empty if its folder does not say."""
    path = folder / "config.yaml"
    if not path.is_file():
        return ""
    data = dict(read_yaml(path, "a run's config")["data"])
    seed = data.pop("seed", None)
    chosen = {name: value for name, value in data.items() if not name.startswith("validation") and name not in _BESIDE}
    return digest([chosen, seed if data.get("shuffle") else None])
