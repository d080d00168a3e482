"""The parts of a report: runs of ``fit``, a comparison, an experiment."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import join
from typing import Any

from aeplus.commands.compare.tables import HEADER, LEGEND, table_rows
from aeplus.commands.report.continuations import continuation_tables
from aeplus.commands.report.document import (
    Block,
    Cell,
    Code,
    Facts,
    Headline,
    Paragraph,
    Part,
    Section,
    Table,
)
from aeplus.commands.report.gather import Compared, Experiment, Run, cell_label, settings
from aeplus.commands.report.pictures import experiment_pictures, joint_pictures, run_pictures
from aeplus.commands.report.tables import (
    Seeds,
    conflict_table,
    cost_table,
    hardest_edits,
    measures_table,
    outcomes,
    paired,
    retention_table,
    scores_table,
    value_range,
    ways,
)
from aeplus.commands.runs.outcome import Outcome
from aeplus.metrics.success import SCORES
from aeplus.utils.tables import shown, spread, with_deviation

_NOT_RECORDED = "not recorded"


def fit_part(runs: Sequence[Run], against: str | None) -> Part:
    """Runs of ``aeplus fit``: one, or several on the same edits.

    Args:
        runs: The runs, with different labels.
        against: The label to compare with.
    """
    first, several = runs[0], len(runs) > 1
    by_label = {run.label: {0: run} for run in runs}
    model = _name(first.metrics["model"])
    results: list[Block] = [] if several else [_headline(first)]
    results += [*_states(runs), scores_table(runs), *ways(by_label)]
    if several:
        results += paired(by_label, against)
    results += measures_table(by_label)
    pictures = [*(joint_pictures({run.label: [run] for run in runs}, first.path) if several else ())]
    for run in runs:
        pictures += run_pictures(run, several, spectra=run is first)  # the same model's for all
    sections = [
        Section("What ran", [_about(runs)]),
        Section("Results", results),
        Section("Figures", list(pictures) or [Paragraph("None could be drawn.", "quiet")]),
        *_measured(by_label, hardest_edits(next((run for run in runs if run.records), first))),
        Section("Environment", [_environment(runs)]),
        Section("To repeat it", _repeat(runs)),
    ]
    done = value_range([run.metrics["edits"] for run in runs])
    title = f"{len(runs)} runs on the same {done} edits" if several else f"{first.metrics['method']} on {model}"
    lead = _lead(first) if not several else f"{', '.join(run.label for run in runs)}, each from the unedited {model}."
    states = [f"{run.label}: {run.state}" if several else run.state for run in runs if not run.complete]
    return Part(title, lead, sections, "; ".join(states) or "complete")


def compare_part(source: Compared, against: str | None) -> Part:
    """A comparison by ``aeplus compare``."""
    runs, notes = _seeds(source.runs), source.notes
    labels = list(dict.fromkeys([*runs, *(label for label, _, _ in source.failed)]))
    seeds = {run.metrics["seed"] for run in source.runs} | {seed for _, seed, _ in source.failed}
    failed = [Outcome.failed(label, seed, error, 0.0) for label, seed, error in source.failed]
    rows = table_rows([*outcomes(runs), *failed], labels, len(seeds))
    table = Table("Methods", HEADER, [row if row[-1] else row[:2] for row in rows], note=LEGEND)
    about = [(name, notes[name]) for name in ("model", "edits", "seeds", "asked", "runs") if name in notes]
    results: list[Block] = [table, *ways(runs), *paired(runs, against), *measures_table(runs)]
    pictures = joint_pictures({label: list(of.values()) for label, of in runs.items()}, source.path)
    more = Paragraph("Each run's own figures: aeplus report on its folder, METHOD/seed_N.", "quiet")
    sections = [
        Section("What ran", [Facts([("folder", str(source.path)), *about])]),
        Section("Results", results),
        Section("Figures", [*pictures, more]),
        *(_measured(runs, []) if runs else ()),
        Section("Environment", [Facts([("machine", notes["machine"]), *_shared(source.runs)])]),
        Section("To repeat it", [Code(notes["command"])]),
    ]
    match = re.fullmatch(r"(\d+) of (\d+)", notes["runs"])
    states = [f"{notes['runs']} runs"] if match is None or match[1] != match[2] else []
    states += [f"{len(source.failed)} failed"] if source.failed else []
    lead = f"{', '.join(labels)} on the same edits, seeds {notes['seeds']}."
    return Part(f"Comparison of {len(labels)} methods", lead, sections, "; ".join(states) or "complete")


def experiment_part(source: Experiment, against: str | None) -> Part:
    """An experiment of the paper."""
    content, cells = source.content, source.content["cells"]
    done = [cell["status"] for cell in cells].count("done")
    about = [(name, content[name]) for name in ("name", "model", "scale") if content.get(name)]
    seeds = sorted({cell["seed"] for cell in cells})
    about += [
        ("seeds", ", ".join(map(str, seeds))),
        ("cells", f"{done} of {len(cells)} done"),
        ("folder", str(source.path)),
    ]
    results: list[Block] = [paper_table(table) for table in content["tables"]]
    runs, by_data = _cells(source)
    claimed = content.get("claimed") or {"value": None, "pairs": []}
    bases = _lower_sides(cells, claimed["pairs"]) if against is None else [against]
    protocol, _, measured = (claimed["value"] or "").rpartition(".")
    score = "Score (strict)" if protocol and measured in SCORES else "Score"
    for data, of in by_data.items():
        for base in [base for base in bases if base in of] or list(of)[:1]:
            results += paired(of, base, data, score)
    pictures = experiment_pictures(source.path, content.get("figures") or [])
    continued = continuation_tables(source.path, content.get("pages") or [])
    versions = content.get("versions")
    known = [(str(name), str(value)) for name, value in versions.items()] if isinstance(versions, dict) else []
    machine = [("machine", content.get("machine") or _NOT_RECORDED)]
    sections = [
        Section("What ran", [Facts(about), *_unfinished(cells), *_cells_tables(cells)]),
        Section("Results", results or [Paragraph("No table.", "quiet")]),
        Section("Figures", list(pictures) or [Paragraph("None were written.", "quiet")]),
        *([Section("Continuations", [*continued])] if continued else ()),
        *(_measured(runs, []) if runs else ()),
        Section("Environment", [Facts([*machine, *known])]),
        Section("To repeat it", [Code(content["command"])]),
    ]
    state = "complete" if done == len(cells) else f"{done} of {len(cells)} cells"
    return Part(content.get("title") or content["name"], content.get("claim") or "", sections, state)


def paper_table(table: Mapping[str, Any]) -> Table:
    """A table in the paper's layout, with the paper's number below ours where it is known."""
    forms = [_form([row["values"][i] for row in table["rows"]]) for i in range(len(table["columns"]))]
    largest = max((value["n"] for row in table["rows"] for value in row["values"] if value), default=0)

    def cell(value: Mapping[str, Any] | None, paper: Any, form: str) -> Cell:
        known = "" if paper is None else f"paper {paper}"  # with the digits that it has there
        if value is None:
            return Cell(shown(None), known)
        text = with_deviation(value["mean"], value.get("sd") if value["n"] > 1 else None, form)
        return Cell(text + (f" (n = {value['n']})" if value["n"] < largest else ""), known)

    rows = [
        [row["label"], *map(cell, row["values"], row.get("paper") or [None] * len(row["values"]), forms)]
        for row in table["rows"]
    ]
    told = any(row.get("paper") for row in table["rows"])
    notes = [table.get("note") or "", f"Mean ± sample standard deviation, n = {largest}." if largest > 1 else ""]
    notes.append("" if told else "The paper's numbers are not in experiment.json.")
    return Table(table.get("title") or "", ["", *table["columns"]], rows, note=" ".join(filter(None, notes)))


def _measured(runs: Seeds, edits: list[Block]) -> list[Section]:
    return [
        Section("Retention", retention_table(runs)),
        Section("Conflict", [*conflict_table(runs), *edits]),
        Section("Cost", [cost_table(runs)]),
    ]


def _lead(run: Run) -> str:
    before, after = (run.metrics[when]["score"] for when in ("before", "after"))
    batches = f"{run.metrics['edits']} edits in batches of {run.config['data'].get('batch_size', '–')}"
    if before is None or after is None:
        return f"{batches}."
    return f"{batches}; the Score went from {before:.1f} to {after:.1f}."


def _headline(run: Run) -> Headline:
    values = [(run.metrics["before"][name], run.metrics["after"][name]) for name in SCORES]
    return Headline(
        [
            (name.capitalize(), spread([after], ".1f"), f"before: {spread([before], '.1f')}")
            for name, (before, after) in zip(SCORES, values, strict=True)
        ]
    )


def _states(runs: Sequence[Run]) -> list[Block]:
    return [
        Paragraph(f"{run.label} is not complete: {run.state}. Its scores are measured at the end only.", "warning")
        for run in runs
        if not run.complete
    ]


def _about(runs: Sequence[Run]) -> Block:
    rows = []
    for run in runs:
        config, metrics = run.config, run.metrics
        path = config["data"].get("path")
        edits = str(metrics["edits"]) if run.complete else run.state
        rows.append(
            [
                run.label,
                metrics["method"],
                str(metrics["model"]),
                _listed(config["model"]["layers"]),
                _listed(path),
                edits,
                str(config["data"].get("batch_size", "–")),
                str(metrics["seed"]),
                str(run.path),
            ]
        )
    header = ["run", "method", "model", "layers", "data", "edits", "batches of", "seed", "folder"]
    if len(rows) == 1:
        return Facts(list(zip(header[1:], rows[0][1:], strict=True)))
    return Table("", header, rows, left=len(header))


def _environment(runs: Sequence[Run]) -> Block:
    """Where and by what runs ran, as far as they recorded it."""
    rows = [dict(run.metrics.get("environment") or {}) | _precision(run.config) for run in runs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(runs) == 1:
        return Facts(list(rows[0].items()))
    cells = [[row.get(name, _NOT_RECORDED) for name in names] for row in rows]
    named = [[run.label, *row] for run, row in zip(runs, cells, strict=True)]
    return Table("", ["run", *names], named, left=len(names) + 1)


def _shared(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What several runs recorded of where they ran."""
    rows = [dict(run.metrics.get("environment") or {}) for run in runs]
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: {row.get(name, _NOT_RECORDED) for row in rows} for name in names}
    return [(name, known.pop() if len(known) == 1 else "differs between runs") for name, known in values.items()]


def _precision(config: Mapping[str, Any]) -> dict[str, str]:
    names = {"dtype": "dtype", "edited_dtype": "dtype of edited layers"}
    return {title: str(config["model"].get(name, _NOT_RECORDED)) for name, title in names.items()}


def _repeat(runs: Sequence[Run]) -> list[Block]:
    commands = [join(["aeplus", "fit", "--config", str(run.path / "config.yaml")]) for run in runs]
    configs = [Code(run.text, f"config.yaml of {run.label}", folded=True) for run in runs]
    return [Code("\n".join(commands)), *configs]


def _seeds(runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        found.setdefault(run.label, {})[run.metrics["seed"]] = run
    return found


def _cells(source: Experiment) -> tuple[dict[str, dict[int, Run]], dict[str, dict[str, dict[int, Run]]]]:
    """The finished runs by label and seed, over all data sets and for each of them."""
    every: dict[str, dict[int, Run]] = {}
    by_data: dict[str, dict[str, dict[int, Run]]] = {}
    several = len({cell.get("data") for cell in source.content["cells"]}) > 1
    for cell, run in zip(source.content["cells"], source.runs, strict=True):
        if run is not None:
            data, label = cell.get("data") or "", cell_label(cell)
            if cell["seed"] in by_data.get(data, {}).get(label, {}):
                label = f"{label} ({cell['folder']})"
            by_data.setdefault(data, {}).setdefault(label, {})[cell["seed"]] = run
            every.setdefault(f"{data}: {label}" if several else label, {})[cell["seed"]] = run
    return every, by_data


def _lower_sides(cells: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels that a claim says others surpass; none of a claim that compares data sets."""
    found = []
    for pair in pairs:
        named = {axis: value for axis, value in pair["lower"].items() if axis != "data"}
        for cell in cells if named else ():
            values = cell["set"] if isinstance(cell.get("set"), dict) else {}
            at = {"variant": cell.get("variant")} | {f"set.{path}": value for path, value in values.items()}
            found += [cell_label(cell)] if all(at.get(axis) == value for axis, value in named.items()) else []
    return list(dict.fromkeys(found))


def _unfinished(cells: Sequence[Mapping[str, Any]]) -> list[Block]:
    counts = {status: [cell["status"] for cell in cells].count(status) for status in ("failed", "missing")}
    said = [f"{count} {status}" for status, count in counts.items() if count]
    if not said:
        return []
    return [Paragraph(f"The experiment is not complete: {' and '.join(said)} of {len(cells)} cells.", "warning")]


def _cells_tables(cells: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """The cells that are not done, and the others folded, as they would push the results down."""
    for done, title in ((False, "Cells that are not done"), (True, "Cells that are done")):
        if some := [cell for cell in cells if (cell["status"] == "done") == done]:
            yield _cells_table(some, title, folded=done)


def _cells_table(cells: Sequence[Mapping[str, Any]], title: str, *, folded: bool) -> Table:
    rows = []
    for cell in cells:
        minutes = cell.get("minutes")
        rows.append(
            [
                cell.get("data") or "–",
                cell.get("variant") or "–",
                settings(cell.get("set")) or "–",
                str(cell["seed"]),
                f"{cell['status']}: {cell['error']}" if cell.get("error") else cell["status"],
                shown(minutes),
            ]
        )
    return Table(title, ["data", "method", "sets", "seed", "status", "minutes"], rows, left=5, folded=folded)


def _form(values: Sequence[Mapping[str, Any] | None]) -> str:
    """One number of decimals for a column."""
    largest = max((abs(value["mean"]) for value in values if value), default=0.0)
    return ".1f" if largest >= 10 else ".2f" if largest >= 1 else ".3g"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _name(model: str) -> str:
    """A model's name without the folders that it lies in, if it is a path."""
    return Path(model).name or model if model.startswith(("/", "./", "~", "../")) else model
