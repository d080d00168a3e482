"""``aeplus report``: reads the folders, puts what they hold together, and writes the pages."""

from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import version

from aeplus.commands.report.document import Document, Part
from aeplus.commands.report.gather import Compared, Experiment, Run, cell_label, edits_of, read_source
from aeplus.commands.report.html import html_page
from aeplus.commands.report.markdown import markdown_page
from aeplus.commands.report.parts import compare_part, experiment_part, fit_part
from aeplus.commands.runs.folder import kept_files
from aeplus.errors import InputError
from aeplus.utils.paths import check_output, expanded, whole_file


def run(options: Namespace) -> int:
    """Writes the pages.

    Args:
        options: See :func:`~aeplus.commands.report.arguments.report_parser`.

    Raises:
        InputError: If a folder is not one of ours, a file of it is missing or damaged, or a page may not be written.
    """
    outputs = {"--out": expanded(options.out)}
    if options.markdown is not None:
        outputs["--markdown"] = expanded(options.markdown)
        if outputs["--markdown"].absolute() == outputs["--out"].absolute():
            msg = (
                f"expected another file for --markdown than for --out, got {options.markdown} for both; choose another."
            )
            raise InputError(msg)
    inputs = [file for folder in options.runs for file in kept_files(expanded(folder))]
    for option, path in outputs.items():
        check_output(path, option, inputs, options.overwrite)
    document = report(options.runs, options.against, options.command)
    for option, path in outputs.items():
        text = html_page(document) if option == "--out" else markdown_page(document, path.parent)
        with whole_file(path, overwrite=options.overwrite, mark=False) as scratch:
            scratch.write_text(text, encoding="utf-8")
        print(f"{len(document.parts)} {'part' if len(document.parts) == 1 else 'parts'} in {path}")
    return 0


def report(folders: Sequence[str], against: str | None = None, command: str = "") -> Document:
    """What some folders hold, as a document.

    Args:
        folders: The folders.
        against: The label to compare with; by default the first of each comparison.
        command: How the page is made, for its foot.

    Raises:
        InputError: If a folder cannot be used, or nothing is called ``against``.
    """
    sources = [read_source(folder) for folder in {expanded(folder).resolve(): folder for folder in folders}.values()]
    runs = _labelled([source for source in sources if isinstance(source, Run)])
    groups = _groups(runs)
    _check_against(against, [*runs, *(source for source in sources if not isinstance(source, Run))])
    parts: list[Part] = [fit_part(group, against) for group in groups]
    for source in sources:
        if isinstance(source, Compared):
            parts.append(compare_part(source, against))
        elif isinstance(source, Experiment):
            parts.append(experiment_part(source, against))
    remarks = []
    if len(groups) > 1:
        names = "; ".join(" and ".join(run.label for run in group) for group in groups)
        remarks.append(
            f"Not comparable with one another, so each stands in a part of its own: {names}. Runs are compared where "
            "all of their edits are done, known (from a journal or edits.jsonl), and the same, of the same model."
        )
    made = f"Made by aeplus {version('aeplus')}" + (f": {command}" if command else "")
    return Document(parts, remarks, made)


def _labelled(runs: Sequence[Run]) -> list[Run]:
    """Runs called by their methods, with the folder's name, or all of its path, where that is not enough."""
    labels = [run.label for run in runs]
    for name in (lambda run: run.path.name, lambda run: str(run.path)):
        again = [
            f"{run.label} ({name(run)})" if labels.count(label) > 1 else label
            for run, label in zip(runs, labels, strict=True)
        ]
        if len(set(again)) == len(again):
            labels = again
            break
    return [Run(r.path, label, r.metrics, r.config, r.text, r.records) for r, label in zip(runs, labels, strict=True)]


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that can be compared edit by edit, together; every other alone."""
    groups: list[tuple[object, list[Run]]] = []
    for run in runs:
        edits = edits_of(run) if run.complete and len(runs) > 1 else None
        key = None if edits is None else (run.metrics["model"], edits)
        known = next((group for other, group in groups if key is not None and other == key), None)
        if known is None:
            groups.append((key, [run]))
        else:
            known.append(run)
    return [group for _, group in groups]


def _check_against(against: str | None, sources: Sequence[Run | Compared | Experiment]) -> None:
    labels: list[str] = []
    for source in sources:
        if isinstance(source, Run):
            labels.append(source.label)
        elif isinstance(source, Compared):
            labels += [run.label for run in source.runs]
        else:
            labels += [cell_label(cell) for cell in source.content["cells"]]
    labels = list(dict.fromkeys(labels))
    if against is not None and against not in labels:
        msg = f"expected --against one of {', '.join(labels)}, got {against!r}; name it as the tables do."
        raise InputError(msg)
