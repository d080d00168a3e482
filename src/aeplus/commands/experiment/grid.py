"""An experiment as its YAML file has it: what it shows, its axes at each scale, its tables and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aeplus.commands.compare.specs import merged
from aeplus.commands.configs import FOLDER
from aeplus.commands.experiment.arguments import EXPERIMENTS, SCALES
from aeplus.commands.stream.arguments import KINDS
from aeplus.errors import InputError
from aeplus.utils.yaml_files import read_yaml

AXES = ("data", "variant", "seed")
"""The axes that every experiment has; those of ``set`` are called ``set.PATH``."""
SET = "set."


@dataclass(frozen=True)
class Claim:
    """What the paper says, as a direction that the cells can show or not.

    Attributes:
        text: The claim in words; empty where there is none.
        value: The value that is compared, one of :data:`~aeplus.commands.experiment.tables.VALUES`; none where
            the claim is not one number against another.
        pairs: Which cells have the higher value, and which the lower, by the same axes; one pair or several.
    """

    text: str = ""
    value: str | None = None
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = ()


@dataclass(frozen=True)
class Layout:
    """A table's layout.

    Attributes:
        title: Its title.
        rows: The axes along the rows.
        columns: The axes along the columns, above the values.
        values: What is shown of each cell.
        note: A sentence below it.
        before: Whether the unedited model has a row.
        paper: The paper's numbers, a list for each row's label; ``None`` where they are not known.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[str, ...]
    note: str = ""
    before: bool = False
    paper: Mapping[str, Sequence[float | None]] | None = None


@dataclass(frozen=True)
class Grid:
    """An experiment at a scale.

    Attributes:
        data: The data sets by name: a stream (``stream``, ``count``, …), a set of AlphaSet (``alphaset``, ``sizes``,
            …), or fields of ``data`` with a ``path``.
        variants: Methods as ``aeplus compare --methods`` has them.
        settings: Values by what they set: ``method.FIELD``, ``model.FIELD``, ``data.FIELD`` or
            ``callbacks.CLASS.ARGUMENT``.
        seeds: The seeds.
        overrides: What the configuration is otherwise, nested as in a config.
        callbacks: Callbacks beside those of a comparison.
    """

    data: dict[str, dict[str, Any]]
    variants: list[str]
    settings: dict[str, list[Any]]
    seeds: list[int]
    overrides: dict[str, Any]
    callbacks: list[dict[str, Any]]


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
        name: Its name, that of its file.
        title: Its title.
        shows: What it shows, in a sentence.
        claim: The claim that it checks.
        grid: Its grid at the scale that was asked for.
        tables: Layouts of its tables.
        figures: Names out of :data:`~aeplus.commands.experiment.drawings.FIGURES`.
        cases: What a page of continuations takes (``count``, ``length``); ``None`` for no page.
        shipped: Whether it comes with aeplus, so that the claim is the paper's.
    """

    name: str
    title: str
    shows: str
    claim: Claim
    grid: Grid
    tables: list[Layout]
    figures: list[str]
    cases: dict[str, int] | None
    shipped: bool = False


def find_experiment(name: str) -> Path:
    """The file of an experiment: a shipped one by its name, or a YAML file of the user's.

    Raises:
        InputError: If there is none; the message lists the names.
    """
    if name in EXPERIMENTS:
        return FOLDER / "experiment" / f"{name}.yaml"
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    msg = (
        f"expected an experiment out of {', '.join(EXPERIMENTS)}, or a YAML file, got {name!r}; name one of them first."
    )
    raise InputError(msg)


def read_experiment(name: str, scale: str) -> Experiment:
    """Reads an experiment at a scale.

    Raises:
        InputError: If there is no such experiment, its file is none, or it does not exist at this scale.
    """
    path = find_experiment(name)
    content = _Part(read_yaml(path, "an experiment"), str(path), _TOP)
    scales = content.group("scales", SCALES)
    if scale not in scales.values:
        msg = f"expected {path} to have the scale {scale}, got {', '.join(scales.values) or 'none'}; choose another."
        raise InputError(msg)
    part = scales.group(scale, _SCALE)
    if reason := part.get("unavailable", str, ""):
        others = [other for other in scales.values if other != scale]
        msg = f"expected another scale for {path.stem} than {scale}, as {reason}; use --scale {' or '.join(others)}."
        raise InputError(msg)
    grid = Grid(
        data=part.get("data", dict, content.get("data", dict, {})),
        variants=part.get("variants", list, content.get("variants", list, [])),
        settings=part.get("set", dict, content.get("set", dict, {})),
        seeds=part.get("seeds", list, content.get("seeds", list, [0])),
        overrides=merged(content.get("overrides", dict, {}), part.get("overrides", dict, {})),
        callbacks=[_with_files(c) for c in part.get("callbacks", list, content.get("callbacks", list, []))],
    )
    _check_grid(grid, str(path))
    return Experiment(
        name=path.stem,
        title=content.need("title", str),
        shows=content.need("shows", str),
        claim=_claim(content, part.get("claim", dict, {}), str(path)),
        grid=grid,
        tables=[_layout(table, str(path), grid) for table in content.get("tables", list, [])],
        figures=content.get("figures", list, []),
        cases=_cases(content.get("cases", dict, None), str(path)),
        shipped=name in EXPERIMENTS,
    )


def _claim(content: "_Part", scale: Mapping[str, Any], place: str) -> Claim:
    """The claim, with what it is at a scale in place of its own."""
    if content.get("claim", dict, None) is None and not scale:
        return Claim()
    values = merged(content.get("claim", dict, {}), scale)
    claim = _Part(values, f"claim of {place}", ("text", "value", "pairs", *_SIDES))
    return Claim(claim.need("text", str), claim.get("value", str, None), _pairs(claim, place))


def _pairs(claim: "_Part", place: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The claim's pairs, each with ``higher`` and ``lower``; a single one may stand in the claim itself."""
    several = [_Part(pair, f"pairs of {place}", _SIDES) for pair in claim.get("pairs", list, [])]
    pairs = [(pair.get("higher", dict, {}), pair.get("lower", dict, {})) for pair in several or [claim]]
    return pairs if claim.get("value", str, None) is not None else []


def _with_files(callback: Any) -> Any:
    """A callback whose arguments like ``?file`` are the file where there is one, and left out where there is none."""
    if not isinstance(callback, dict) or not isinstance(arguments := callback.get("init_args"), dict):
        return callback
    files = {name: text[1:] for name, text in arguments.items() if isinstance(text, str) and text.startswith("?")}
    kept = {name: files.get(name, value) for name, value in arguments.items()}
    return {**callback, "init_args": {n: v for n, v in kept.items() if n not in files or Path(files[n]).is_file()}}


_TOP = (
    *("title", "shows", "claim", "data", "variants", "set", "seeds", "overrides", "callbacks", "tables", "figures"),
    *("cases", "scales"),
)
_SCALE = ("claim", "data", "variants", "set", "seeds", "overrides", "callbacks", "unavailable")
_SIDES = ("higher", "lower")
_TABLE = ("title", "rows", "columns", "values", "note", "before", "paper")
STREAM = ("stream", "count", "share", "tests")
ALPHASET = ("alphaset", "sizes", "edits", "k0", "k0_count", "corpus", "steps", "candidates", "rewriter", "protect")
"""What a stream and a set of AlphaSet may have; the other options of their commands stay as they are."""
_NAMES: dict[type, str] = {str: "a text", list: "a list", dict: "a mapping", bool: "true or false"}


class _Part:
    """A mapping of the file, whose keys are known."""

    def __init__(self, values: Any, place: str, keys: Sequence[str]) -> None:
        if not isinstance(values, dict):
            msg = f"expected a mapping in {place}, got {_shown(values)}; see the experiments in configs/experiment."
            raise InputError(msg)
        if unknown := [str(key) for key in values if key not in keys]:
            msg = f"expected {place} to have keys out of {', '.join(keys)}, got {', '.join(unknown)}; correct them."
            raise InputError(msg)
        self.values, self._place = values, place

    def get(self, key: str, kind: type, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, kind):
            msg = f"expected {key} in {self._place} to be {_NAMES[kind]}, got {_shown(value)}; correct it."
            raise InputError(msg)
        return value

    def need(self, key: str, kind: type) -> Any:
        if (value := self.get(key, kind, None)) is None:
            msg = f"expected {key} in {self._place}, got none; add it."
            raise InputError(msg)
        return value

    def group(self, key: str, keys: Sequence[str]) -> "_Part":
        return _Part(self.need(key, dict), f"{key} of {self._place}", keys)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _layout(table: Any, place: str, grid: Grid) -> Layout:
    part = _Part(table, f"tables of {place}", _TABLE)
    rows, columns, values = (tuple(map(str, part.get(name, list, []))) for name in ("rows", "columns", "values"))
    known = [*AXES, *(f"{SET}{path}" for path in grid.settings)]
    if unknown := [str(axis) for axis in (*rows, *columns) if axis not in known]:
        msg = f"expected axes out of {', '.join(known)} in tables of {place}, got {', '.join(unknown)}; correct them."
        raise InputError(msg)
    sizes = {"data": len(grid.data), "variant": len(grid.variants)}
    sizes |= {f"{SET}{path}": len(values) for path, values in grid.settings.items()}
    if lost := [axis for axis, size in sizes.items() if size > 1 and axis not in (*rows, *columns)]:
        msg = f"expected every axis along rows or columns in tables of {place}, got {', '.join(lost)} nowhere; add it."
        raise InputError(msg)
    if not values:
        msg = f"expected values in tables of {place}, got none; name for example score."
        raise InputError(msg)
    paper = part.get("paper", dict, None)
    numbers = [
        number for line in (paper or {}).values() for number in (line if isinstance(line, list) else ["no list"])
    ]
    if not all(number is None or (isinstance(number, int | float) and number == number) for number in numbers):
        msg = (
            f"expected the paper's numbers in tables of {place} as a list for each row, got {_shown(paper)}; "
            "correct them."
        )
        raise InputError(msg)
    return Layout(
        part.need("title", str),
        rows,
        columns,
        values,
        part.get("note", str, ""),
        part.get("before", bool, False),
        paper,
    )


def _cases(options: Any, place: str) -> dict[str, int] | None:
    if options is None:
        return None
    part = _Part(options, f"cases of {place}", ("count", "length"))
    if not all(type(number) is int for number in part.values.values()):
        msg = f"expected whole numbers in cases of {place}, got {_shown(options)}; correct it."
        raise InputError(msg)
    return dict(part.values)


def _check_grid(grid: Grid, place: str) -> None:
    checks: list[tuple[str, bool, Callable[[], Any]]] = [
        ("data", bool(grid.data), lambda: "none"),
        ("variants", bool(grid.variants) and all(isinstance(v, str) for v in grid.variants), lambda: grid.variants),
        ("seeds", bool(grid.seeds) and all(type(s) is int and s >= 0 for s in grid.seeds), lambda: grid.seeds),
        (
            "set",
            all(isinstance(path, str) and isinstance(v, list) and v for path, v in grid.settings.items()),
            lambda: grid.settings,
        ),
    ]
    for name, good, shown in checks:
        if not good:
            what = {"set": "a list of values for each path"}.get(name, f"some {name}")
            msg = f"expected {what} in {place}, got {_shown(shown())}; correct it."
            raise InputError(msg)
    for name, entry in grid.data.items():
        kinds = [kind for kind in ("stream", "alphaset", "path") if isinstance(entry, dict) and kind in entry]
        if len(kinds) != 1:
            msg = (
                f"expected one of stream, alphaset and path in data {name} of {place}, got {_shown(entry)}; correct it."
            )
            raise InputError(msg)
        if kinds[0] != "path":
            _Part(entry, f"data {name} of {place}", STREAM if kinds[0] == "stream" else ALPHASET)
        if kinds[0] == "stream" and entry["stream"] not in KINDS:
            msg = (
                f"expected a stream out of {', '.join(KINDS)}, got {entry['stream']!r} in {place}; choose one of these."
            )
            raise InputError(msg)
        if kinds[0] == "alphaset" and entry["alphaset"] not in (1, 2, 3):
            msg = f"expected alphaset 1, 2 or 3, got {entry['alphaset']!r} in {place}; choose one of these."
            raise InputError(msg)
