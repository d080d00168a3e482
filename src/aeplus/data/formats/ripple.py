"""RippleEdits: an edit as a statement, and what else it must change or leave alone, along six axes."""

from collections.abc import Iterator, Mapping

from aeplus.data.formats.fields import Record, Target, objects, text, texts
from aeplus.data.formats.statement import split_statement
from aeplus.data.request import SLOT, EditRequest, Probe
from aeplus.errors import InputError

NAME = "RippleEdits (edit)"

AXES = (
    "Relation_Specificity",
    "Logical_Generalization",
    "Subject_Aliasing",
    "Compositionality_I",
    "Compositionality_II",
    "Forgetfulness",
)
_UNCHANGED = ("Relation_Specificity", "Forgetfulness")  # KnowEdit, which took these records over, calls both locality
_SPELLINGS = {"Relation_Specificity": "Relation_Specifity"}  # as the format's description has it
_ORIGINAL = ("original_fact", "previous_fact")


def recognises(record: Record) -> bool:
    """Whether a record has this format."""
    return isinstance(record.get("edit"), Mapping)


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record.

    Subject and answer are found in the statement; see :func:`~aeplus.data.formats.statement.split_statement`. Each
    query is a test of its axis; any of its answers and their aliases counts. (The published evaluation looks for every
    answer in a generated text, passes over tests whose ``condition_queries`` the model fails, and needs one query of a
    test or all of them, by ``test_condition``.)

    Prompts of Relation_Specificity and Forgetfulness, which ask for what the edit must not change, are the
    neighbourhood too; what the unedited model answers is right there.

    Args:
        record: ``edit`` with ``prompt`` and by choice ``original_fact`` and ``relation``, and by choice the six axes.
        target: Not used.

    Raises:
        InputError: If a field cannot be used or no subject is found.
    """
    edit = record["edit"]
    original = next((edit[name] for name in _ORIGINAL if edit.get(name)), None)
    if original is not None and not isinstance(original, Mapping):
        msg = f"'original_fact' must be an object with a prompt, but is {original!r:.80}; correct it or leave it out."
        raise InputError(msg)
    said = split_statement(
        text(edit, "prompt", "prompt of 'edit'"),
        None if original is None else text(original, "prompt", "prompt of 'original_fact'"),
        str(edit.get("relation") or ""),
    )
    axes = tuple(dict.fromkeys(probe for axis in AXES for probe in _probes(record, axis)))
    return [
        EditRequest(
            prompt=said.prompt,
            subject=said.subject,
            target_new=said.target,
            neighborhood=tuple(dict.fromkeys(Probe(probe.prompt) for probe in axes if probe.axis in _UNCHANGED)),
            axes=axes,
            aliases=_aliases(axes, said.target),
            target_true=None if original is None else _answer(text(original, "prompt"), said.prompt, said.subject),
        )
    ]


def _probes(record: Record, axis: str) -> Iterator[Probe]:
    field = axis if axis in record else _SPELLINGS.get(axis, axis)
    for test in objects(record, field):
        for query in objects(test, "test_queries"):
            prompt = text(query, "prompt", f"prompt of {axis!r}")
            given = objects(query, "answers")
            right = dict.fromkeys(
                word for answer in given for word in (*texts(answer, "value"), *texts(answer, "aliases"))
            )
            if right:  # a query without an answer tests nothing
                first, *others = right
                yield Probe(prompt, first, tuple(others), axis)


def _aliases(axes: tuple[Probe, ...], target: str) -> tuple[str, ...]:
    """Other spellings of the target, from the tests that ask for it by other names of the subject."""
    asked = (probe for probe in axes if probe.axis == "Subject_Aliasing" and probe.answer == target)
    return tuple(dict.fromkeys(alias for probe in asked for alias in probe.aliases if alias != target))


def _answer(statement: str, prompt: str, subject: str) -> str | None:
    """The answer of a statement that begins with a prompt."""
    return statement.removesuffix(".").removeprefix(prompt.replace(SLOT, subject)).strip() or None
