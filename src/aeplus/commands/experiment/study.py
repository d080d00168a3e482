"""An experiment under way: its cells made, its tables, figures and pages written."""

import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aeplus.commands.cases import cases as write_cases
from aeplus.commands.experiment import launch
from aeplus.commands.experiment.cells import Cell, groups_of
from aeplus.commands.experiment.data import draw
from aeplus.commands.experiment.drawings import draw_figures
from aeplus.commands.experiment.grid import Experiment
from aeplus.commands.experiment.tables import (
    Result,
    build_table,
    check_claim,
    claim_text,
    show_table,
    table_latex,
    table_markdown,
    tables_csv,
    unmeasured,
)
from aeplus.commands.experiment.values import Files
from aeplus.commands.runs.runner import count_edits
from aeplus.errors import InputError
from aeplus.figures import save_svg
from aeplus.utils.jsonl import read_json, write_json
from aeplus.utils.paths import whole_file
from aeplus.utils.tables import print_line

FILE = "experiment.json"
"""What a finished experiment is read from."""
ENDINGS = ("md", "csv", "tex")
"""Those of the files with its tables."""


class Study:
    """An experiment under way.

    Args:
        experiment: The experiment.
        cells: Its cells.
        out: Its folder.

    Attributes:
        results: What became of each cell, in order.
        about: What ``experiment.json`` says of the whole.
        figures: The figures and pages that were written, relative to the folder.
    """

    def __init__(self, experiment: Experiment, cells: Sequence[Cell], out: Path) -> None:
        self.experiment, self.out = experiment, out
        self.results = [Result(cell) for cell in cells]
        self.about: dict[str, Any] = {}
        self.figures: list[str] = []
        self.pages: list[str] = []
        self._said: set[str] = set()  # which data sets' errors have been printed

    def make(self, jobs: int, launcher: str, launcher_options: dict[str, Any]) -> None:
        """Draws the data and makes the cells; what is written is up to date after every cell.

        Raises:
            InputError: If no data set can be had, or the model cannot be loaded.
            KeyboardInterrupt: After Ctrl-C.
        """
        try:
            self._draw_data()
            if launcher == "submitit":  # whose jobs alone may have room for the model, and so find what is finished
                in_order = sorted(self._orders(self._open()), key=lambda o: self.results[o.index].cell.shares_targets)
                self._take(launch.submitted(in_order, jobs, self.out / "submitit", launcher_options))
                return
            self._take_finished(jobs)
            if jobs == 1:
                self._take(launch.local(self._orders(self._open()), 1, self._say))
            else:
                threads = self._threads(jobs)
                for part in groups_of([result.cell for result in self._open()]):
                    wanted = {id(cell) for cell in part}
                    orders = self._orders([r for r in self._open() if id(r.cell) in wanted], threads)
                    if orders:
                        self._take(launch.local(orders, min(jobs, len(orders)), self._say))
        except KeyboardInterrupt:
            done = sum(result.status == "done" for result in self.results)
            print(
                f"\ninterrupted: {done} of {len(self.results)} cells finished; rerun the same command to continue",
                file=sys.stderr,
            )
            raise
        finally:
            launch.forget(jobs if launcher == "local" else 1)

    def draw(self) -> None:
        """Draws the figures and the page of cases, and writes everything."""
        for name, figure in draw_figures(self.experiment.figures, self.results).items():
            path = Path("figures") / f"{name}.svg"
            save_svg(figure, self.out / path)
            self.figures.append(path.as_posix())
        if self.experiment.cases is not None:
            self._write_cases(self.experiment.cases)
        self.write()

    def write(self) -> None:
        """Writes ``experiment.json`` and the tables.

        Raises:
            InputError: If they cannot be written.
        """
        tables = [build_table(layout, self.results) for layout in self.experiment.tables]
        checks = check_claim(self.experiment.claim, self.results)
        content = {
            **self.about,
            "claim": claim_text(self.experiment.claim, checks),
            "checks": checks,
            "claimed": {
                "value": self.experiment.claim.value,
                "pairs": [{"higher": higher, "lower": lower} for higher, lower in self.experiment.claim.pairs],
            },
            "cells": [self._entry(result) for result in self.results],
            "tables": tables,
            "figures": self.figures,
            "pages": self.pages,
        }
        write_json(self.out / FILE, content)
        tex = "\n".join(table_latex(layout, t) for layout, t in zip(self.experiment.tables, tables, strict=True))
        texts = {"md": self._markdown(tables, content["claim"]), "csv": tables_csv(tables), "tex": tex}
        for ending, text in texts.items():
            with whole_file(self.out / f"{self.experiment.name}.{ending}") as scratch:
                scratch.write_text(text, encoding="utf-8")

    def show(self) -> None:
        """Prints the tables, what failed, and the paths."""
        for layout in self.experiment.tables:
            show_table(layout, build_table(layout, self.results))
        if said := claim_text(self.experiment.claim, check_claim(self.experiment.claim, self.results)):
            print_line(said)
        if said := self._unmeasured():
            print_line(said, "red")
        for result in self.results:
            if result.status != "done":
                print_line(_unfinished(result), "red")
        written = [f"{self.experiment.name}.{ending}" for ending in ENDINGS]
        for name in (*written, FILE, *self.figures, *self.pages):
            print_line(str(self.out / name))

    # ---- cells

    def load_model(self) -> None:
        """Loads the model before anything is written.

        Raises:
            InputError: If it cannot be loaded or edited.
        """
        launch.prepare(self._orders(self._open())[0])

    def check_files(self) -> None:
        """Reads the data that are files or on the hub, before anything is written.

        Raises:
            InputError: If none of the experiment's data can be had.
        """
        self._have(lambda cell: None if cell.place.command else count_edits(cell.run.settings["data"]))

    def _draw_data(self) -> None:
        """Draws the other data."""
        others = self._others()

        def draw_and_read(cell: Cell) -> None:
            draw(cell.place, self.out, others)
            count_edits(cell.run.settings["data"])

        self._have(lambda cell: draw_and_read(cell) if cell.place.command else None)

    def _have(self, get: Callable[[Cell], Any]) -> None:
        """Gets data of each seed once: those that cannot be had fail their cells, and if all cannot, the experiment."""
        found: dict[str, str | None] = {}
        for index, result in enumerate(self.results):
            key = result.cell.shares_data
            if result.status == "failed":
                found[key] = result.error
                continue
            if key not in found:
                try:
                    get(result.cell)
                    found[key] = None
                except Exception as error:  # whatever it is, the other data sets go on
                    if not isinstance(error, InputError):
                        traceback.print_exc()
                    found[key] = str(error) or type(error).__name__
            if (reason := found[key]) is not None:
                self.results[index] = replace(result, status="failed", error=reason)
        if all(found.values()):
            raise InputError(str(next(iter(found.values()))))
        for key in [key for key, reason in found.items() if reason is not None and key not in self._said]:
            self._said.add(key)
            print(f"aeplus: error: {key}: {found[key]}", file=sys.stderr)

    def _open(self) -> list[Result]:
        return [result for result in self.results if result.status == "missing"]

    def _orders(self, results: Sequence[Result], threads: int | None = None) -> list[launch.Order]:
        places = {id(result.cell): index for index, result in enumerate(self.results)}
        targets, others = self.out / "targets", self._others()
        return [launch.Order(places[id(r.cell)], r.cell.run, targets, threads, others) for r in results]

    def _others(self) -> tuple[Path, ...]:
        """The experiments beside this one, but not itself made elsewhere, which is made to be made again.

        None where seconds are shown: those are this run's or nothing.
        """
        shown = [value for layout in self.experiment.tables for value in layout.values]
        if "effort" in self.experiment.figures or any(
            value.startswith("seconds.") for value in [*shown, self.experiment.claim.value or ""]
        ):
            return ()
        beside = [*self.out.parent.glob(f"*/{FILE}"), *self.out.parent.parent.glob(f"*/{self.out.name}/{FILE}")]
        return tuple(sorted({path.parent for path in beside if _name_in(path) not in (None, self.experiment.name)}))

    def _say(self, order: launch.Order) -> None:
        print(f"[{order.index + 1}/{len(self.results)}] {self.results[order.index].cell}", file=sys.stderr)

    def _take_finished(self, jobs: int) -> None:
        """Takes what has been made already, so that what is written of the rest holds it from the first."""
        if made := launch.finished(self._orders(self._open()), jobs):
            for one in made:
                self._note(one)
            self.write()

    def _take(self, made: Iterable[launch.Made]) -> None:
        for one in made:
            self._note(one)
            self.write()

    def _note(self, one: launch.Made) -> None:
        """Notes what became of a cell."""
        result, outcome = self.results[one.index], one.outcome
        if outcome.error is None:
            files, status = Files.read(result.cell.run.folder), "done"
        else:
            files, status = None, "failed"
        source = None if one.source is None else str(one.source)
        self.results[one.index] = Result(result.cell, files, status, outcome.error, outcome.seconds, source)
        said = f"as in {one.source}" if one.source else "cached" if one.cached else status
        print(f"[{one.index + 1}/{len(self.results)}] {result.cell}: {said}", file=sys.stderr)

    @staticmethod
    def _threads(jobs: int) -> int:
        import torch

        return max(1, torch.get_num_threads() // jobs)

    # ---- what is written

    def _entry(self, result: Result) -> dict[str, Any]:
        cell = result.cell
        return {
            "folder": cell.run.folder.relative_to(self.out).as_posix(),
            "data": cell.data,
            "variant": cell.variant,
            "set": cell.values,
            "seed": cell.seed,
            "status": result.status,
            "error": result.error,
            "minutes": None if result.seconds is None else result.seconds / 60,
            "source": result.source,
        }

    def _markdown(self, tables: Sequence[Mapping[str, Any]], claim: str) -> str:
        about = self.about
        parts = [f"# {self.experiment.title}", self.experiment.shows]
        parts += [self._called(claim)] if claim else []
        parts += [table_markdown(layout, t) for layout, t in zip(self.experiment.tables, tables, strict=True)]
        parts += [said] if (said := self._unmeasured()) else []
        parts += [f"![{Path(name).stem}]({name})" for name in self.figures]
        parts += [f"[{name}]({name})" for name in self.pages]
        if unfinished := [result for result in self.results if result.status != "done"]:
            lines = [f"- {_unfinished(result)}" for result in unfinished]
            parts.append(
                f"## Cells that are not done ({len(unfinished)} of {len(self.results)})\n\n" + "\n".join(lines)
            )
        own = [result for result in self.results if result.source is None]
        minutes = sum(result.seconds or 0.0 for result in own) / 60
        taken = f", {len(self.results) - len(own)} of other experiments" if len(own) < len(self.results) else ""
        notes = {
            "command": f"`{about['command']}`",
            "scale": about["scale"],
            "model": about["model"],
            "seeds": ", ".join(map(str, about["seeds"])),
            "machine": about["machine"],
            "versions": ", ".join(f"{name} {number}" for name, number in about["versions"].items()),
            "cells": f"{len(self.results) - len(unfinished)} of {len(self.results)}{taken}, {minutes:.1f} minutes",
        }
        legend = "Percentages unless a unit is given; with several seeds, mean ± sample standard deviation."
        return "\n\n".join([*parts, legend, "\n".join(f"- {name}: {text}" for name, text in notes.items())]) + "\n"

    def _called(self, claim: str) -> str:
        """The claim, with whose it is where it does not say so."""
        whose = "The paper" if self.experiment.shipped else "Claim"
        return claim if claim.startswith(whose) else f"{whose}: {claim}"

    def _unmeasured(self) -> str:
        names = unmeasured(self.experiment.tables, self.experiment.claim, self.results)
        return f"No finished cell has {', '.join(names)}: not measured, or misspelt." if names else ""

    def _write_cases(self, options: Mapping[str, int]) -> None:
        """A page for each data set, of its first seed."""
        for name in dict.fromkeys(result.cell.data for result in self.results):
            of_data = [r for r in self.results if r.cell.data == name and r.status == "done"]
            folders = [r.cell.run.folder for r in of_data if r.cell.seed == of_data[0].cell.seed]
            if not folders:
                continue
            page = self.out / "cases" / f"{folders[0].parents[1].name}.md"
            with tempfile.TemporaryDirectory(prefix="aeplus-") as scratch:
                draft = Path(scratch) / "cases.md"
                write_cases(folders, options.get("count", 5), None, options.get("length", 20), draft)
                text = draft.read_text(encoding="utf-8")
            with whole_file(page) as target:
                target.write_text(text, encoding="utf-8")
            self.pages.append(page.relative_to(self.out).as_posix())


def _name_in(path: Path) -> str | None:
    """Which experiment's results a file holds; none where it is damaged, which is another experiment's concern."""
    try:
        told = read_json(path)
    except InputError:
        return None
    return told.get("name") if isinstance(told, dict) else None


def _unfinished(result: Result) -> str:
    return f"{result.cell}: {result.status}{f' ({result.error})' if result.error else ''}"
