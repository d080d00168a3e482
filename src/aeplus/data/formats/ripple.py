"""RippleEdits: an edit as a statement whose subject must be found, and tests along six axes."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from aeplus.data.formats.fields import Record, Target, objects, text, texts
from aeplus.edits import SLOT, EditRequest, Probe
from aeplus.errors import InputError


class Statement(NamedTuple):
    """A statement taken apart.

    Attributes:
        prompt: What comes before the answer, with ``{}`` where the subject stands.
        subject: The subject.
        target: The answer.
    """

    prompt: str
    subject: str
    target: str


# What stands before the subject, and what between the subject and the answer. The first that fits counts.
_FORMS = (
    (r"The [a-z ]+? which ", r" (?:is (?:associated with|a member of|part of|the capital of)|plays in) is "),
    (r"The number of children ", r" has is "),
    (r"The name of the award ", r" won is "),
    (
        r"The (?>(?:names? of the )?)"
        r"(?:(?:place|date|country|head|field) of [a-z]+|[a-z]+(?: [a-z]+)*?) (?:of|by|in) ",
        r" (?:is|are) ",
    ),
)
_SEQUENCE = (("", r" (?:follows|is followed by) "),)


def split_statement(statement: str, original: str | None = None, relation: str | None = None) -> Statement:
    """Finds subject and answer of a statement, such as Ann and Oslo in ``The place of birth of Ann is Oslo.``.

    RippleEdits words every relation in one way, and all of these ways have one of few forms:

    - ``The [name of the] NOUN of|by|in SUBJECT is|are ANSWER``, where the noun is in small letters and ends at the
      first such preposition, but for ``place of birth``, ``country of citizenship``, ``head of state`` and their like.
      (The last ``of`` would cut subjects such as *The Merchant of Venice*.)
    - ``The NOUN which SUBJECT is associated with|is a member of|is part of|is the capital of|plays in is ANSWER``,
    - ``The number of children SUBJECT has is ANSWER``, ``The name of the award SUBJECT won is ANSWER``,
    - ``SUBJECT follows|is followed by ANSWER``, for the relations FOLLOWS and FOLLOWED_BY alone.

    The answer begins behind the form's verb. A subject or an answer may hold that verb too (*Life is Beautiful*): then
    the statement of the original fact, which has another answer, tells. Both begin with the same words, so the answer
    begins behind the last verb that they share. Without an original fact such a statement is refused.

    Args:
        statement: The edit's ``prompt``; one full stop at its end is not part of the answer.
        original: The same statement with the answer that was true before.
        relation: The relation, such as ``COUNTRY_OF_CITIZENSHIP``.

    Raises:
        InputError: If the statement has none of the forms, may be read in several ways, or begins otherwise than the
            original fact.
    """
    said = statement.removesuffix(".")
    for before, between in _SEQUENCE if (relation or "").startswith("FOLLOW") else _FORMS:
        start = re.match(before, said)
        if start is None:
            continue
        ends = [end for end in re.finditer(between, said) if end.start() > start.end() and end.end() < len(said)]
        if original is not None and ends:
            ends = [end for end in ends if original.startswith(said[: end.end()])][-1:]
            if not ends:
                msg = (
                    f"'prompt' and the original fact's must say the same up to the answer, but are {statement!r} and "
                    f"{original!r}; correct either."
                )
                raise InputError(msg)
        if len(ends) > 1:
            msg = f"'prompt' must say where its subject ends, but {statement!r} may be read in several ways; reword it."
            raise InputError(msg)
        for end in ends:
            subject = said[start.end() : end.start()]
            return Statement(start[0] + SLOT + end[0].rstrip(), subject, said[end.end() :])
    msg = (
        "'prompt' must be a statement in RippleEdits' wording, such as 'The place of birth of Ann is Oslo.', but is "
        f"{statement!r}, in which no subject is found; reword it."
    )
    raise InputError(msg)


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

    Subject and answer are found in the statement; see :func:`~aeplus.data.formats.ripple.split_statement`. Each
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
