"""Taking edits out of a journal: their updates subtracted, or the later batches solved again without them."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from aeplus.data.datamodule import EditDataModule
from aeplus.edits import EditRequest, still_holding
from aeplus.errors import InputError
from aeplus.evaluation.questions import Success
from aeplus.journal.base import BaseModel
from aeplus.methods.method import Method
from aeplus.models.decoder import Decoder
from aeplus.models.sites import kept_modes
from aeplus.preserved.statistics import PreservedOptions
from aeplus.run.committed.chain import Record
from aeplus.run.committed.entries import Entries, Entry, request_from
from aeplus.run.committed.store import ReadOnlyStore, weights_digests
from aeplus.run.measuring import JournalMeasure
from aeplus.run.selection import MEASURED, SelectionOptions
from aeplus.run.session import EditSession
from aeplus.targets.optimizer import TargetOptions

Mode = Literal["subtract", "replay"]
_SOLVING = ("model", "selection", "preserve")  # the settings that a batch is solved by
Takes = dict[int, frozenset[int]]
"""By record, the indices of the edits that are taken out."""
Active = Sequence[tuple[Record, frozenset[int]]]


@dataclass(frozen=True)
class Undone:
    """What taking edits out did. Percentages; ``None`` where there is no prompt to measure on.

    Attributes:
        number: The record that says so.
        edits: How many edits were taken out.
        removed: Efficacy, Generalization, Specificity and Score of these edits before and after; of those that no later
            edit had superseded.
        others: The same of all other edits.
        replayed: Batches that were solved again.
    """

    number: int
    edits: int
    removed: tuple[Success, Success]
    others: tuple[Success, Success]
    replayed: int


def undo(
    journal: ReadOnlyStore, numbers: Iterable[int], edit: int | None, mode: Mode, model: Any, tokenizer: Any
) -> Undone:
    """See :meth:`~aeplus.journal.Journal.undo`."""
    takes = _takes(journal, numbers, edit)
    with kept_modes(model), BaseModel(journal.chain, model) as base:
        model.requires_grad_(False).eval()
        entries = journal.entries()
        if mode == "subtract":
            _require_separable(journal.active, entries, takes)
            _require_last(journal.active, takes)
        else:
            _require_one_reading(journal.active, takes)
        edits = _edits(journal.active, takes)
        holding = still_holding([edit for edit, _ in edits])
        others = [edit for edit, out in edits if not out]
        removed = [edit for (edit, out), holds in zip(edits, holding, strict=True) if out and holds]
        measure = JournalMeasure(base.decoder, tokenizer, [edit for edit, _ in edits])
        entries.apply(base.sites)
        before = measure(removed), measure(others)
        base.reset()
        if mode == "subtract":
            _without(journal.active, entries, takes).apply(base.sites)
            replayed: list[tuple[Record, Entry]] = []
        else:
            replayed = _replay(journal, entries, takes, model, tokenizer)
        after = measure(removed), measure(others)
        record = _write(journal, takes, mode, replayed, weights_digests(base.sites))
        base.keep()
    return Undone(
        record.number, sum(map(len, takes.values())), (before[0], after[0]), (before[1], after[1]), len(replayed)
    )


def _takes(journal: ReadOnlyStore, numbers: Iterable[int], edit: int | None) -> Takes:
    active = {record.number: dropped for record, dropped in journal.active}
    takes = {}
    for number in numbers:
        record = journal.record(number)
        count = len(record.content.get("edits", ()))
        if number not in active:
            what = "an undo" if record.kind == "undo" else "one whose edits are not in the model"
            msg = f"expected a batch of the journal that is in the model, got entry {number}, {what}; see aeplus log."
            raise InputError(msg)
        left = frozenset(range(count)) - active[number]
        if edit is not None and edit - 1 not in left:
            which = ", ".join(str(index + 1) for index in sorted(left))
            msg = f"expected an edit of entry {number} that is in the model ({which}), got {edit}; see aeplus show."
            raise InputError(msg)
        takes[number] = left if edit is None else frozenset([edit - 1])
    if not takes:
        msg = "expected a range of entries from its first to its last, got an empty one; write it like 2-4."
        raise InputError(msg)
    return takes


def _require_separable(active: Active, entries: Entries, takes: Takes) -> None:
    for (record, _), entry in zip(active, entries, strict=True):
        taken, method = takes.get(record.number, frozenset()), record.content["settings"]["model"]["method"]
        by_edit = method["update"] == "closed_form" and not method.get("feedback") and entry.separable
        if taken and len(taken) < len(entry.edits) and by_edit and _shares_key(entry):
            msg = (
                f"expected edits with keys of their own, got entry {record.number}, some of whose edits share a key "
                "and a target; take all of it out, or use the mode replay."
            )
            raise InputError(msg)
        if taken and len(taken) < len(entry.edits) and not by_edit:
            msg = (
                f"expected a batch whose edits have an update each, got entry {record.number}, which {method['name']} "
                "has solved as a whole; take all of it out, or use the mode replay."
            )
            raise InputError(msg)


def _require_last(active: Active, takes: Takes) -> None:
    """Some methods let a batch build on what those before it did, so that it cannot stay without them."""
    for place, (record, _) in enumerate(active):
        later = [other for other, _ in active[place + 1 :] if other.number not in takes and _builds(other)]
        if record.number in takes and later:
            numbers = ", ".join(str(other.number) for other in later)
            msg = (
                f"expected a batch that no later one builds on, got entry {record.number}, on which entry {numbers} by "
                f"{later[0].content['settings']['model']['method']['name']} builds; take those out first, or use the "
                "mode replay."
            )
            raise InputError(msg)


def _shares_key(entry: Entry) -> bool:
    keys = next(iter(entry.keys.values()))
    return len(torch.unique(keys, dim=1).T) < keys.shape[1]


def _builds(record: Record) -> bool:
    method = record.content["settings"]["model"]["method"]
    return bool(method.get("feedback")) or method["treatment"] == "restrain"


def _require_one_reading(active: Active, takes: Takes) -> None:
    """One stream is solved again, whose prompts are read in one way."""
    ways = {
        (record.content["settings"]["data"].get("chat_template"), record.content["settings"]["data"].get("join"))
        for record, _ in active[_first(active, takes) :]
    }
    if len(ways) > 1:
        msg = (
            "expected later batches with the same data.chat_template and data.join for the mode replay, got different "
            "ones; use the mode subtract."
        )
        raise InputError(msg)


def _edits(active: Active, takes: Takes) -> list[tuple[EditRequest, bool]]:
    """The edits in the model, in order, each with whether it is taken out."""
    return [
        (request_from(plain), index in takes.get(record.number, ()))
        for record, dropped in active
        for index, plain in enumerate(record.content["edits"])
        if index not in dropped
    ]


def _without(active: Active, entries: Entries, takes: Takes) -> Entries:
    left = Entries()
    for (record, dropped), entry in zip(active, entries, strict=True):
        places = [index for index in range(len(record.content["edits"])) if index not in dropped]
        out = {places.index(index) for index in takes.get(record.number, ())}
        if len(out) < len(places):
            left.append(entry.without(out) if out else entry)
    return left


def _replay(
    journal: ReadOnlyStore, entries: Entries, takes: Takes, model: Any, tokenizer: Any
) -> list[tuple[Record, Entry]]:
    """Solves the batches from the first taken one on again, without what is taken out."""
    first = _first(journal.active, takes)
    kept = Entries(entries[:first])
    later = [
        (record, left)
        for record, dropped in journal.active[first:]
        if (left := _left(record, dropped | takes.get(record.number, frozenset())))
    ]
    if not later:
        kept.apply(Decoder(model, journal.chain.header["site"]).select(journal.chain.header["layers"]))
        return []
    settings = later[-1][0].content["settings"]
    if any(record.content["settings"].get(name) != settings.get(name) for record, _ in later for name in _SOLVING):
        warnings.warn(
            f"the entries were made with different settings; those of entry {later[-1][0].number} are used",
            stacklevel=2,
        )
    data = EditDataModule(**{**settings["data"], "path": None, "shuffle": False, "subset": None, "limit": None})
    made = [request_from(edit) for entry in kept for edit in entry.edits]
    data.attach(
        [*made, *(request for _, requests in later for request in requests)], _unknown(journal, takes, settings)
    )
    data.setup("fit")
    preserve = [request_from(fact) for fact in settings.get("preserve", ())]
    session = _session(settings["model"], model, tokenizer, preserve)
    _choose_alike(session, settings, later[-1][0].number)
    session.prepare(data)
    session.entries = kept
    kept.apply(session.sites)
    data.cursor = len(made)
    replayed = []
    for record, requests in later:
        data.batch_size = len(requests)
        session.edit_batch(data.validation_items)
        replayed.append((record, session.entries[-1]))
    return replayed


def _unknown(journal: ReadOnlyStore, takes: Takes, settings: Mapping[str, Any]) -> list[int]:
    """The places of the edits that are left which the validation file of some settings was not made for."""
    files = [
        record.content["settings"]["data"].get("validation")
        for record, dropped in journal.active
        for _ in _left(record, dropped | takes.get(record.number, frozenset()))
    ]
    return [place for place, file in enumerate(files) if file != settings["data"].get("validation")]


def _choose_alike(session: EditSession, settings: Mapping[str, Any], number: int) -> None:
    """Chooses candidates as the run did, whatever its callback was set to.

    Raises:
        InputError: If it watched what only its trainer knew.
    """
    chosen = settings.get("selection")
    if chosen is None:
        if "selection" in settings:
            warnings.warn(
                f"entry {number} chose its candidates by a rule of its own, which the journal does not know; the "
                "method's is used",
                stacklevel=2,
            )
        return
    options = SelectionOptions(**chosen)
    if options.watched not in MEASURED:
        msg = (
            f"expected a monitor out of {', '.join(MEASURED)} for the mode replay, got {options.monitor!r} in the "
            f"settings of entry {number}; use the mode subtract."
        )
        raise InputError(msg)
    session.select, session.monitor = options, options.watched


def _first(active: Active, takes: Takes) -> int:
    return next(place for place, (record, _) in enumerate(active) if record.number in takes)


def _left(record: Record, dropped: frozenset[int]) -> list[EditRequest]:
    return [request_from(edit) for index, edit in enumerate(record.content["edits"]) if index not in dropped]


def _session(settings: Mapping[str, Any], model: Any, tokenizer: Any, preserve: Sequence[EditRequest]) -> EditSession:
    method = Method.from_plain(settings["method"])
    return EditSession(
        model,
        tokenizer,
        layers=settings["layers"],
        method=method,
        targets=TargetOptions(**settings["targets"]),
        preserved=PreservedOptions(**settings["preserved"]),
        edited_dtype=settings["edited_dtype"],
        seed=settings["seed"],
        name=settings["model"],
        site=settings["site"],
        preserve=preserve,
    )


def _write(
    journal: ReadOnlyStore, takes: Takes, mode: Mode, replayed: Sequence[tuple[Record, Entry]], after: dict[str, str]
) -> Record:
    """The batches solved again count only once the undo that names them is there: all of it, or nothing."""
    chain, count = journal.chain, sum(len(edits) for edits in takes.values())
    by = []
    for record, entry in replayed:
        content = {"settings": replayed[-1][0].content["settings"], "replaces": record.number}  # all solved by the last
        by.append(chain.append("replayed", content, entry).number)
    if mode == "replay":
        replaced = [record for record, _ in journal.active[_first(journal.active, takes) :]]
        takes = {record.number: frozenset(range(len(record.content["edits"]))) for record in replaced}
    content = {
        "mode": mode,
        "count": count,
        "takes": {str(number): sorted(edits) for number, edits in takes.items()},
        "by": by,
        "weights": {"before": journal.weights, "after": after},
    }
    return chain.append("undo", content)
