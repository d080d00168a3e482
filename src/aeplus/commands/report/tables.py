"""The tables of a report, from runs that are grouped by what tables call them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aeplus.commands.compare.against import HEADER as AGAINST
from aeplus.commands.compare.against import LEGEND as PAIRED
from aeplus.commands.compare.against import Against
from aeplus.commands.compare.ways import TITLE, ways_table
from aeplus.commands.report.document import Block, Cell, Paragraph, Table
from aeplus.commands.report.gather import Run
from aeplus.commands.runs.outcome import Outcome
from aeplus.metrics.success import SCORES
from aeplus.run.records import conflict_order
from aeplus.utils.tables import shown, spread

Seeds = Mapping[str, Mapping[int, Run]]
"""Runs by label and seed."""

_DEPTH = 4  # of what EvaluationWriter measured
_SHOWN = 10


def outcome(run: Run, seed: int) -> Outcome:
    """A run as a comparison has it."""
    m = run.metrics
    editing = sum(batch["seconds"]["total"] for batch in m["batches"])
    return Outcome(run.label, seed, m["before"], m["after"], editing, m["leakage"], m["seconds"]["total"])


def outcomes(runs: Seeds) -> list[Outcome]:
    """The finished runs as a comparison has them."""
    return [outcome(run, seed) for of in runs.values() for seed, run in of.items() if run.complete]


def scores_table(runs: Sequence[Run]) -> Table:
    """The scores of the unedited model and of each run, with the intervals that the runs found."""

    def row(label: str, run: Run, when: str) -> list[str | Cell]:
        found = run.metrics["intervals"][when]
        return [label, *(_with_interval(run.metrics[when][name], found.get(name)) for name in SCORES)]

    unedited = {  # the first of those that agree
        tuple(shown(run.metrics["before"][name]) for name in SCORES): run for run in reversed(runs)
    }
    several = len(unedited) > 1
    rows = [
        row(f"before, {run.label}" if several else "before", run, "before") for run in reversed(list(unedited.values()))
    ]
    rows += [row(run.label if run.complete else f"{run.label} ({run.state})", run, "after") for run in runs]
    note = "Percent of prompts, with the 95 % bootstrap interval over the edits. Score: the mean of the three."
    return Table("Before and after", ["", *(name.capitalize() for name in SCORES)], rows, note=note)


def ways(runs: Seeds) -> list[Block]:
    """Success by the way of asking, where there were several."""
    header, rows = ways_table(outcomes(runs), list(runs))
    return [Table(TITLE, header, rows)] if rows else []


def paired(runs: Seeds, against: str | None, title: str = "", score: str = "Score") -> list[Block]:
    """Each label's Score against one of them, edit by edit.

    Args:
        runs: The runs.
        against: The label to compare with; the first where it is not among them.
        title: What the runs have in common, for the title.
        score: What the title calls the Score.
    """
    labels = list(runs)
    if len(labels) < 2:
        return []
    base = against if against is not None and against in runs else labels[0]
    kept = {
        label: {seed: run for seed, run in of.items() if _asked(run) and _asked(run) == _asked(runs[base].get(seed))}
        for label, of in runs.items()
    }
    folders = {(label, seed): run.path for label, of in kept.items() for seed, run in of.items()}
    rows = Against(base, folders).rows(outcomes(kept), labels)
    blocks: list[Block] = []
    if rows:
        name = f"{score} against {base}" + (f", {title}" if title else "")
        blocks.append(Table(name, AGAINST, rows, note=PAIRED))
    left = [label for label in labels if label != base and label not in {row[0] for row in rows}]
    if left:
        text = f"Not compared with {base}, as no finished run of it was asked the same prompts: {', '.join(left)}."
        blocks.append(Paragraph(text, "warning"))
    return blocks


def measures_table(runs: Seeds) -> list[Block]:
    """What EvaluationWriter measured beyond the scores."""
    every = [run for of in runs.values() for run in of.values()]
    found = {(id(run), when): dict(_numbers(run.metrics["measures"].get(when))) for run in every for when in _WHEN}
    names = list(dict.fromkeys(name for values in found.values() for name in values if not name.startswith("strict/")))
    if not names:
        return []

    def cell(of: Sequence[Run], when: str, name: str) -> str:
        return spread((found[id(run), when].get(name) for run in of), ".4g")

    first = list(next(iter(runs.values())).values())
    header = ["measure", "before", *(runs if len(runs) > 1 else ("after",))]
    rows = [
        [name.replace("/", ": ").replace("_", " "), cell(first, "before", name)]
        + [cell(list(of.values()), "after", name) for of in runs.values()]
        for name in names
    ]
    return [Table("Further measures", header, rows, note="By protocol, as metrics.json has them (docs/metrics.md).")]


def retention_table(runs: Seeds) -> list[Block]:
    """How many of the edits so far still held along the stream."""
    rows = []
    for label, of in runs.items():
        means = [values for run in of.values() if (values := _retained(run))]
        if means:
            places = (_first, _middle, _last, _lowest)
            rows.append([label, *(spread((place(values) for values in means), ".1f") for place in places)])
    if not rows:
        return [Paragraph("Not measured: add the callback EvaluationWriter to the run.", "quiet")]
    missing = [label for label in runs if label not in {row[0] for row in rows}]
    note = "Percent of the edits so far that still hold, mean over their batches."
    if missing:
        note += f" Not measured: {', '.join(missing)}."
    return [Table("", ["", "after the first batch", "half-way", "after the last", "lowest"], rows, note=note)]


def conflict_table(runs: Seeds) -> list[Block]:
    """How conflicting the edits were, and what the method did about it."""
    rows: list[list[str | Cell]] = []
    for label, of in runs.items():
        begun = [run for run in of.values() if run.metrics["batches"]]
        if not begun:
            continue
        sets = [run.metrics["batches"] for run in begun]
        pairs = [
            Cell(
                spread((_mean(batches, name) for batches in sets), form),
                f"at most {max(batch[f'{name}_max'] for batches in sets for batch in batches):{form}}",
            )
            for name, form in (("conflict_preserved", ".2f"), ("conflict_prior", ".2f"), ("residual_norm", ".3g"))
        ]
        smoothed = (sum(_smoothed(run, batch) for batch in run.metrics["batches"]) for run in begun)
        rank = spread((sum(batch["rank"] for batch in batches) / len(batches) for batches in sets), ".1f")
        leakage = spread((run.metrics["leakage"] for run in of.values()), ".2g")
        rows.append([label, *pairs, f"{spread(smoothed, '.3g')} of {value_range(map(len, sets))}", rank, leakage])
    if not rows:
        return [Paragraph("No batch was committed.", "quiet")]
    note = (
        "s: largest |cosine| of an edit's key with preserved keys (K0) and with those of previous edits (Kp), mean "
        "over the layers; ‖r‖: norm of its residual at the last edited layer. Smoothed: batches that committed a "
        "smoothed candidate. Rank of P̃: per batch, over all layers. Leakage: tr(Δ C Δᵀ) / tr(W C Wᵀ), all edits."
    )
    header = ["", "s(k, K0)", "s(k, Kp)", "‖r‖", "smoothed", "rank of P̃", "leakage"]
    return [Table("", header, rows, note=note)]


def hardest_edits(run: Run) -> list[Block]:
    """The most conflicting edits of a run that kept its edits."""
    records = run.records
    if not records:
        text = "The edits one by one are not known: add the callback FigureWriter to the run."
        return [Paragraph(text, "quiet")]
    order = conflict_order([r.s_K0 for r in records], [r.s_Kp for r in records], [r.residual for r in records])
    rows = []
    for record in (records[index] for index in order[:_SHOWN]):
        before, after = (None if of is None else of.get("score") for of in (record.before, record.after))
        success = "superseded" if record.superseded else shown(after, ".0f")
        values = [f"{record.s_K0:.2f}", f"{record.s_Kp:.2f}", shown(record.residual, ".3g"), shown(before, ".0f")]
        rows.append([str(record.edit), record.prompt, record.target, *values, success])
    header = ["edit", "prompt", "target", "s(k, K0)", "s(k, Kp)", "‖r‖", "Score before", "after"]
    title = f"The {len(rows)} most conflicting of {len(records)} edits, {run.label}"
    return [Table(title, header, rows, left=3, note="By the mean of the ranks of the three quantities.")]


def cost_table(runs: Seeds) -> Table:
    """Seconds by phase."""
    rows: list[list[str | Cell]] = []
    resumed = False
    for label, of in runs.items():
        every = [run.metrics for run in of.values()]

        def phase(name: str, every: Sequence[Mapping[str, Any]] = every) -> str:
            return spread((sum(batch["seconds"].get(name, 0.0) for batch in m["batches"]) for m in every), ".1f")

        per_edit = [
            sum(batch["seconds"]["total"] for batch in m["batches"]) / m["edits_done"] for m in every if m["edits_done"]
        ]
        statistics = spread((m["seconds"]["statistics"] for m in every), ".1f")
        earlier = [m["seconds"].get("earlier") or 0.0 for m in every]
        whole = spread((m["seconds"]["total"] + before for m, before in zip(every, earlier, strict=True)), ".1f")
        phases = [phase(name) for name in ("targets", "solve", "validate", "total")]
        resumed |= any(earlier)
        more = "resumed" if any(earlier) else ""
        rows.append([label, statistics, *phases, spread(per_edit, ".2g"), Cell(whole, more)])
    header = ["", "statistics", "targets", "search and solve", "validation", "all batches", "per edit", "whole run"]
    note = (
        "Seconds. All batches: what editing took, with targets from a cache as if they had been computed. Whole run: "
        "wall-clock time, with loading and evaluation."
    )
    if resumed:
        note += " Resumed: since then, and the batches before it without their loading and evaluation."
    return Table("", header, rows, note=note)


_WHEN = ("before", "after")
_ASKING = ("protocol", "chat_template", "join", "neighbors")
"""Settings of the data that say how edits are asked."""


def _asked(run: Run | None) -> Any:
    """The prompts that a finished run was asked, and how; nothing if there are none."""
    if run is None or not run.complete:
        return None
    asked = {name: (of["edits"], of["prompts"]) for name, of in run.metrics["hits"].items() if of["edits"]}
    return [asked, *(run.config["data"].get(name) for name in _ASKING)] if asked else None


def _with_interval(value: float | None, interval: Mapping[str, Any] | None) -> str | Cell:
    if value is None or interval is None or interval["low"] is None or interval["high"] is None:
        return shown(value)
    return Cell(f"{value:.1f}", f"{interval['low']:.1f} to {interval['high']:.1f}")


def _numbers(values: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, float]]:
    """Every number of a measurement but the ends and counts of intervals, with a path for its name."""
    for name, value in values.items() if isinstance(values, dict) and depth < _DEPTH else ():
        if isinstance(value, dict) and "value" in value and "low" in value:
            value = value["value"]
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/", depth + 1)
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and prefix:
            yield f"{prefix}{name}", float(value)


def _smoothed(run: Run, batch: Mapping[str, Any]) -> bool:
    """Whether a batch committed a candidate before T, the unsmoothed one, in any layer where each chooses by itself.

    A rule may stop before T, so that the last candidate is not always the unsmoothed one.
    """
    chosen = [(of["iteration"], len(of["scores"])) for of in batch.get("chosen", ())]
    tried = chosen or [(batch["committed_iteration"], batch["smoothing_iterations"])]
    last = run.config["model"]["method"].get("smoothing_steps")
    return any(count > 1 and iteration < (count - 1 if last is None else last) for iteration, count in tried)


def _retained(run: Run) -> list[float | None]:
    """Retention after each batch so far, ``None`` where nobody measured it; empty where nobody ever did."""
    means = run.metrics["measures"].get("retention", {"mean": []}) or {"mean": []}
    values: list[float | None] = means["mean"][: len(run.metrics["batches"])]
    return values if any(value is not None for value in values) else []


def _first(values: list[float | None]) -> float | None:
    return values[0]


def _middle(values: list[float | None]) -> float | None:
    return values[(len(values) - 1) // 2]


def _last(values: list[float | None]) -> float | None:
    return values[-1]


def _lowest(values: list[float | None]) -> float | None:
    return min(value for value in values if value is not None)


def _mean(batches: Sequence[Mapping[str, Any]], name: str) -> float:
    """The mean over the edits."""
    total = sum(batch["edits"] for batch in batches)
    return sum(batch[name] * batch["edits"] for batch in batches) / total if total else 0.0


def value_range(counts: Iterable[int]) -> str:
    """One number, or the least and the largest of several."""
    known = sorted(set(counts))
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"
