"""The cells of an experiment: the product of its axes, each a run with its settings and its folder."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aeplus.commands.compare.specs import MethodSpec, parse_specs, tell_idle
from aeplus.commands.experiment.data import Place, check_place, place_of, slug
from aeplus.commands.experiment.grid import SET, Grid
from aeplus.commands.runs.folder import check_folder
from aeplus.commands.runs.runner import Run
from aeplus.errors import InputError

_METHOD, _CALLBACKS = "method.", "callbacks."


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        data: The name of its data set.
        variant: Its method, as the grid has it.
        values: Its values of ``set``.
        place: Where its data are.
        run: The run.
    """

    data: str
    variant: str
    values: dict[str, Any]
    place: Place
    run: Run

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.run.seed

    def on(self, axis: str) -> Any:
        """Where it lies on an axis."""
        return self.values[axis.removeprefix(SET)] if axis.startswith(SET) else getattr(self, axis)

    @property
    def shares_data(self) -> str:
        """Cells with the same text have the same edits."""
        return f"{self.data} {self.seed}"

    @property
    def shares_targets(self) -> str:
        """Cells with the same text learn the same targets in their first batch, if nothing else differs."""
        model = self.run.settings["model"]
        return repr([self.shares_data, model["method"].get("targets"), model["targets"]])

    def __str__(self) -> str:
        settings = "".join(f", {short(path)}={value_text(value)}" for path, value in self.values.items())
        return f"{self.data}, {self.variant}{settings}, seed {self.seed}"


def make_cells(grid: Grid, settings: Mapping[str, Any], out: Path) -> list[Cell]:
    """The cells, seed by seed, so that a first table of all is complete early.

    Args:
        grid: The grid.
        settings: The configuration that they have in common.
        out: The experiment's folder.

    Raises:
        InputError: If a method or a value does not fit, or a cell's folder contains something else.
    """
    paths = list(grid.settings)
    points = list(itertools.product(*grid.settings.values()))
    methods = {
        (variant, point): _spec(variant, dict(zip(paths, point, strict=True)))
        for variant in grid.variants
        for point in points
    }
    numbers = {key: spec.over(settings["model"]["method"]) for key, spec in methods.items()}
    cells = []
    for seed, (name, entry), variant, point in itertools.product(grid.seeds, grid.data.items(), grid.variants, points):
        values, spec = dict(zip(paths, point, strict=True)), methods[variant, point]
        own = copy.deepcopy(dict(settings))
        own["model"] |= {"method": numbers[variant, point], "seed": seed}
        place = place_of(name, entry, seed, out, own)
        if unknown := [field for field in place.fields if field not in own["data"]]:
            msg = f"expected fields of data in the data set {name}, got {', '.join(map(str, unknown))}; correct them."
            raise InputError(msg)
        check_place(place)
        own["data"] |= {**place.fields, "seed": seed}
        if place.facts is not None:
            own["model"]["preserved"] = {**own["model"]["preserved"], "facts": place.facts}
        for path, value in values.items():
            if not path.startswith(_METHOD):
                _put(own, path, value)
        folder = out / slug(name) / _folder_of(spec, values) / f"seed_{seed}"
        check_folder(folder)
        cells.append(Cell(name, variant, values, place, Run(spec.label, seed, folder, own)))
    _check_apart(cells)
    for variant in grid.variants:
        at_points = [spec.idle(settings["model"]["method"]) for (own, _), spec in methods.items() if own == variant]
        tell_idle(variant, [field for field in at_points[0] if all(field in idle for idle in at_points)])
    return cells


def _check_apart(cells: Sequence[Cell]) -> None:
    """Every cell has a folder, and every data set that is called after its name a file."""
    owners: dict[Path, Any] = {}
    for cell in cells:
        drawn = cell.place.files if cell.place.command == "build-stream" else ()
        for path, owner in ((cell.run.folder, id(cell)), *((file, cell.data) for file in drawn)):
            if owners.setdefault(path, owner) != owner:
                msg = (
                    f"expected every cell to have a folder of its own, got {path} twice; name data sets and variants "
                    "apart."
                )
                raise InputError(msg)


def short(path: str) -> str:
    """The last name of a path: ``ridge`` of ``method.ridge``."""
    return path.rpartition(".")[2]


def value_text(value: Any) -> str:
    """A value as a variant has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _spec(variant: str, values: Mapping[str, Any]) -> MethodSpec:
    """The variant with the values that are fields of its method; they are checked as in ``aeplus compare``."""
    fields = [f"{path.removeprefix(_METHOD)}={value_text(v)}" for path, v in values.items() if path.startswith(_METHOD)]
    (spec,) = parse_specs(":".join([variant, *fields]))
    return spec


def _folder_of(spec: MethodSpec, values: Mapping[str, Any]) -> str:
    others = [f"{short(path)}={slug(value_text(v))}" for path, v in values.items() if not path.startswith(_METHOD)]
    return ",".join([spec.folder, *others])


def _put(settings: dict[str, Any], path: str, value: Any) -> None:
    """Sets a value of the configuration.

    Raises:
        InputError: If there is no such place.
    """
    if path.startswith(_CALLBACKS):
        name, _, argument = path.removeprefix(_CALLBACKS).partition(".")
        callbacks = [c for c in settings["trainer"]["callbacks"] or [] if c["class_path"].rpartition(".")[2] == name]
        if not callbacks or not argument:
            msg = f"expected {path} to name a callback of the experiment and its argument, got none; correct it."
            raise InputError(msg)
        for callback in callbacks:
            callback["init_args"] = {**callback.get("init_args", {}), argument: value}
        return
    *groups, name = path.split(".")
    inside: Any = settings if groups and groups[0] in ("model", "data") else {}
    for group in groups:
        inside = inside.get(group) if isinstance(inside, dict) else None
    if not isinstance(inside, dict) or name not in inside:
        msg = (
            f"expected method.FIELD, model.FIELD, data.FIELD or callbacks.CLASS.ARGUMENT of a configuration in set, "
            f"got {path}; correct it."
        )
        raise InputError(msg)
    inside[name] = value


def groups_of(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The first cell of each group that shares targets, and the others: those find the first one's targets."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.shares_targets, cell)
    begun = {id(cell) for cell in first.values()}
    return list(first.values()), [cell for cell in cells if id(cell) not in begun]
