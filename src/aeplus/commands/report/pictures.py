"""The figures of a report: drawn from what runs measured, and those that runs wrote."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from aeplus import figures as draw
from aeplus.commands.report.document import Picture
from aeplus.commands.report.gather import Run, inside
from aeplus.errors import InputError
from aeplus.figures.from_run import figures_of_run, quantities
from aeplus.figures.style import svg
from aeplus.utils.jsonl import refuse_streams

_TITLES = {
    "conflict": "How conflicting the edits are",
    "stream": "Conflict along the stream",
    "score": "Score against conflict",
    "effort": "Seconds by part",
    "hidden": "Hidden states before and after",
    "capabilities": "General tasks along the stream",
    "retention": "Retention: edits of each batch after every batch",
}
_WIDE = ("conflict", "stream", "score")  # three panels side by side
_JOINT = ("conflict", "score", "effort")  # drawn once for several runs
_LARGEST = 20_000_000
_CROWD = 12
_SIGNATURES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/svg+xml": b"<"}


def run_pictures(run: Run, several: bool = False, spectra: bool = True) -> list[Picture]:
    """The figures of one run.

    Args:
        run: The run.
        several: Whether it is one of several, whose joint figures are drawn too.
        spectra: Whether the spectra of preserved keys are among them.

    Raises:
        InputError: If a file that they are drawn from is damaged.
    """
    label = f"{run.label}: " if several else ""
    drawn = _drawn(run.path, lambda: figures_of_run(run.path))
    pictures = []
    for name, content in drawn.items():
        if (several and name in _JOINT) or (name.startswith("spectrum") and not spectra):
            continue
        title = f"{label}{_title(name)}"
        written = run.path / "figures" / f"{name}.png"
        path = written if written.is_file() else None
        pictures.append(Picture(title, content, "image/svg+xml", path, name in _WIDE))
    for path in sorted((run.path / "figures").glob("*.png")):
        if path.stem not in drawn:
            pictures.append(Picture(f"{label}{_title(path.stem)}", _read(path, "image/png"), "image/png", path))
    return pictures


def joint_pictures(runs: Mapping[str, Sequence[Run]], folder: Path) -> list[Picture]:
    """Figures that show several labels side by side.

    Args:
        runs: The runs of each label.
        folder: What messages call their place.
    """
    if not 2 <= len(runs) <= _CROWD:
        return []
    seconds = {
        label: [batch["seconds"] for run in of for batch in run.metrics["batches"]] for label, of in runs.items()
    }
    records = {label: [record for run in of for record in run.records] for label, of in runs.items()}
    known = {label: of for label, of in records.items() if of}
    scores = {label: [record.score() for record in of] for label, of in known.items()}

    def drawn() -> dict[str, Figure]:
        found: dict[str, Figure] = {}
        if len(known) > 1:
            values = {label: quantities(of) for label, of in known.items()}
            found["conflict"] = draw.conflict_distributions(values)
            if all(any(score is not None for score in of) for of in scores.values()):
                found["score"] = draw.score_by_conflict(
                    {label: {**values[label], "score": scores[label]} for label in known}
                )
        if all(seconds.values()):
            found["effort"] = draw.effort_by_run(seconds)
        return found

    return [
        Picture(_title(name), content, "image/svg+xml", None, name in _WIDE)
        for name, content in _drawn(folder, drawn).items()
    ]


def experiment_pictures(folder: Path, names: Sequence[str]) -> list[Picture]:
    """The figures that an experiment lists.

    Raises:
        InputError: If one is missing, is no figure or lies elsewhere.
    """
    pictures = []
    for name in names:
        path = inside(folder, name)
        kind = "image/svg+xml" if path.suffix == ".svg" else "image/png"
        wide = kind == "image/svg+xml" and path.stem != "effort"  # which a phone can show whole
        pictures.append(Picture(_title(path.stem), _read(path, kind), kind, path, wide))
    return pictures


def _drawn(folder: Path, make: Callable[[], Mapping[str, Figure]]) -> dict[str, bytes]:
    """Figures as SVG; the same data give the same bytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a label that is too long, a character that the font lacks
            return {name: svg(figure) for name, figure in make().items()}
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        msg = f"expected values that can be drawn in {folder}, got others ({error!r:.80}); make the run again."
        raise InputError(msg) from error


def _read(path: Path, kind: str) -> bytes:
    refuse_streams(path)
    if not path.is_file():
        msg = f"expected the figure {path}, got none; make the run again."
        raise InputError(msg)
    content = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
    if not content.lstrip(b"\xef\xbb\xbf \n").startswith(_SIGNATURES[kind]):
        what = "an SVG" if kind == "image/svg+xml" else "a PNG"
        msg = f"expected {what} of at most {_LARGEST // 1_000_000} MB in {path}, got another file; make the run again."
        raise InputError(msg)
    return content


def _title(name: str) -> str:
    if match := re.fullmatch(r"spectrum_layer_(\d+)", name):
        return f"Spectrum of preserved keys, layer {match[1]}"
    return _TITLES.get(name, name.replace("_", " "))
