"""``aeplus apply`` and ``aeplus undo``."""

import re
from argparse import Namespace

from aeplus.errors import InputError
from aeplus.journal import Journal, Undone
from aeplus.journal.base import load_base, sources
from aeplus.metrics.success import SCORES
from aeplus.models.loading import save_model
from aeplus.utils.paths import check_output, expanded
from aeplus.utils.tables import counted, print_line, print_table, shown


def apply(options: Namespace) -> int:
    """Saves the edited model.

    Raises:
        InputError: If the journal is damaged, the model is another, or the folder may not be written.
    """
    out = expanded(options.out)
    check_output(out, "--out", folder=True)
    journal = Journal.open(options.journal)
    check_output(out, "--out", sources(journal.chain, options.model), folder=True)
    model, tokenizer = load_base(journal.chain, options.model)
    same = journal.apply(model)
    save_model(model, tokenizer, out)
    count = sum(line.active for line in journal.log())
    exact = "bit for bit as recorded" if same else "as recorded but for rounding, as on another device"
    print_line(f"{counted(count, 'edit')} applied, {exact}")
    print_line(f"edited model: {out}")
    return 0


def undo(options: Namespace) -> int:
    """Takes edits out and reports what that did.

    Raises:
        InputError: If there are no such edits, the model is another, or the folder may not be written.
    """
    first, last = _range(options.entries)
    if options.out is not None:
        check_output(expanded(options.out), "--out", folder=True)
    if options.edit is not None and last != first:
        msg = f"expected one entry with --edit, got {options.entries}; give the number of its batch."
        raise InputError(msg)
    journal = Journal.open(options.journal)
    if options.out is not None:
        check_output(expanded(options.out), "--out", sources(journal.chain, options.model), folder=True)
    model, tokenizer = load_base(journal.chain, options.model)
    undone = journal.undo(first, last, edit=options.edit, mode=options.mode, model=model, tokenizer=tokenizer)
    if options.out is not None:
        save_model(model, tokenizer, expanded(options.out))
    _print(undone, journal)
    print_line(
        f"the model without them: {options.out}"
        if options.out is not None
        else f"the model without them: aeplus apply {options.journal} --out FOLDER"
    )
    return 0


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text)
    if found is None:
        msg = f"expected an entry such as 3, or a range such as 2-4, got {text!r}; aeplus log lists them."
        raise InputError(msg)
    return int(found[1]), int(found[2] or found[1])


def _print(undone: Undone, journal: Journal) -> None:
    how = f", {undone.replayed} batches solved again" if undone.replayed else ""
    rows = [
        [f"{what}, {when}", *(shown(summary[name]) for name in SCORES)]
        for what, pair in (("taken out", undone.removed), ("all others", undone.others))
        for when, summary in zip(("before", "after"), pair, strict=True)
    ]
    title = f"{counted(undone.edits, 'edit')} taken out{how}: entry {undone.number} of {journal.folder} (%)"
    print_table(title, ["", *(name.capitalize() for name in SCORES)], rows, left=[""])
