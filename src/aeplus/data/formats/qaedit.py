"""QAEdit: questions of QA benchmarks that a model answers wrongly, with the right answer."""

from collections.abc import Mapping
from typing import Any

from aeplus.data.formats.fields import Record, Target, answer, missing, placed, tested, text, texts, written
from aeplus.data.formats.plain import true_answer
from aeplus.data.formats.wikibigedit import local_probes
from aeplus.edits import EditRequest
from aeplus.errors import InputError

NAME = "QAEdit (prompt, subject, target)"
IGNORED = frozenset(("source", "question_id", "relation"))


def recognizes(record: Record) -> bool:
    """Whether a record has this format."""
    return {"prompt", "target"} <= record.keys() and "target_new" not in record


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record.

    Args:
        record: ``prompt``, ``subject``, ``target``, and optionally ``rephrase``, ``ground_truth`` and ``locality``, a
            list of objects with ``loc`` and ``loc_ans`` (or an object of such lists).
        target: Not used.

    Raises:
        InputError: If a field cannot be used.
    """
    prompt, subject = placed(written(record, "prompt"), text(record, "subject"), "prompt")
    return [
        EditRequest(
            prompt,
            subject,
            answer(record, "target"),
            (*texts(record, "rephrase"), *texts(record, "rephrase_prompt")),
            tuple(probe for place in _places(record) for probe in local_probes(record, place)),
            target_true=true_answer(record, "ground_truth"),
        )
    ]


def _places(record: Record) -> list[Record]:
    """The objects with loc and loc_ans, in whatever they are listed."""
    value = record.get("locality")
    items = value if isinstance(value, list | tuple) else [value]
    parts: list[Any] = []
    for item in items:
        within = [item]
        if isinstance(item, Mapping) and not item.keys() & {"loc", "prompt"}:
            within = [item[name] for name in item]
        for part in within:
            parts += part if isinstance(part, list | tuple) else [part]
    found: list[Record] = []
    for part in parts:
        if isinstance(part, Mapping) and "loc" in part:
            found.append(part)
        elif not missing(part):
            with tested(record):
                msg = f"expected 'locality' to be a list of objects with loc and loc_ans, got {part!r:.80}; correct it."
                raise InputError(msg)
    return found
