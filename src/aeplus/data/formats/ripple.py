"""RippleEdits: an edit as a statement, whose subject must be found, and tests along six axes."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from aeplus.data.formats.fields import Record, Target, answers, objects, tested, text, written
from aeplus.edits import SLOT, EditRequest, Probe
from aeplus.errors import InputError

NAME = "RippleEdits (edit)"
IGNORED = frozenset(
    [
        "example_type",
        "subject_id",
        "target_id",
        "relation",
        "test_condition",
        "condition_queries",
        "query_type",
        "query_id",
        "second_relation",
        "second_hop_relation",
        "phrase",
        "original_fact",
        "previous_fact",
    ]
)
AXES = (
    "Relation_Specificity",
    "Logical_Generalization",
    "Subject_Aliasing",
    "Compositionality_I",
    "Compositionality_II",
    "Forgetfulness",
)
_UNCHANGED = ("Relation_Specificity", "Forgetfulness")  # KnowEdit, which adopted these records, calls both locality
_SPELLINGS = {"Relation_Specificity": "Relation_Specifity"}  # the spelling in the format's description
_ORIGINAL = ("original_fact", "previous_fact")
# Patterns before the subject, and between the subject and the answer. The first form that matches is used.
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


class SplitStatement(NamedTuple):
    """A statement split into its parts.

    Attributes:
        prompt: Everything before the answer, with ``{}`` in place of the subject.
        subject: The subject.
        target: The answer.
    """

    prompt: str
    subject: str
    target: str


def recognizes(record: Record) -> bool:
    """Whether a record has this format."""
    return isinstance(record.get("edit"), Mapping)


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record.

    Subject and answer are found in the statement; see :func:`split_statement`. Each query is a test of its axis; any
    of its answers and their aliases counts. (The published evaluation searches a generated text for every answer, skips
    tests whose ``condition_queries`` the model fails, and requires one query of a test or all, by ``test_condition``.)

    Prompts of Relation_Specificity and Forgetfulness, which ask for what the edit must not change, are also the
    neighborhood; there the unedited model's answer is the correct one.

    Args:
        record: ``edit`` with ``prompt`` and optionally ``original_fact`` and ``relation``, and optionally the six axes.
        target: Not used.

    Raises:
        InputError: If a field cannot be used or no subject is found.
    """
    edit = record["edit"]
    original = next((edit[name] for name in _ORIGINAL if edit.get(name)), None)
    if original is not None and not isinstance(original, Mapping):
        msg = f"expected 'original_fact' to be an object with a prompt, got {original!r:.80}; correct or omit it."
        raise InputError(msg)
    statement = split_statement(
        text(edit, "prompt", "prompt of 'edit'"),
        None if original is None else text(original, "prompt", "prompt of 'original_fact'"),
        str(edit.get("relation") or ""),
    )
    axes = tuple(dict.fromkeys(probe for axis in AXES for probe in _probes(record, axis)))
    return [
        EditRequest(
            prompt=statement.prompt,
            subject=statement.subject,
            target_new=statement.target,
            neighborhood=tuple(dict.fromkeys(Probe(probe.prompt) for probe in axes if probe.axis in _UNCHANGED)),
            axes=axes,
            aliases=_aliases(axes, statement.target),
            target_true=None if original is None else _answer(text(original, "prompt"), statement),
        )
    ]


def _probes(record: Record, axis: str) -> Iterator[Probe]:
    field = axis if axis in record else _SPELLINGS.get(axis, axis)
    for test in objects(record, field):
        for query in objects(test, "test_queries"):
            with tested(record):
                prompt = written(query, "prompt", f"prompt of {axis!r}")
                accepted = dict.fromkeys(
                    name
                    for right in objects(query, "answers")
                    for name in (*answers(right, "value"), *answers(right, "aliases"))
                )
                if accepted:  # a query without an answer tests nothing
                    first, *others = accepted
                    yield Probe(prompt, first, tuple(others), axis)


def _aliases(axes: tuple[Probe, ...], target: str) -> tuple[str, ...]:
    """Other spellings of the target, from tests that ask for it by other names of the subject."""
    asked = (probe for probe in axes if probe.axis == "Subject_Aliasing" and probe.answer == target)
    return tuple(dict.fromkeys(alias for probe in asked for alias in probe.aliases if alias != target))


def _answer(original: str, statement: SplitStatement) -> str | None:
    """The answer of the original fact, which is equal to the statement up to there."""
    beginning = statement.prompt.replace(SLOT, statement.subject)
    return original.removesuffix(".").removeprefix(beginning).strip() or None


def split_statement(statement: str, original: str | None = None, relation: str | None = None) -> SplitStatement:
    """Finds subject and answer of a statement, such as Ann and Oslo in ``The place of birth of Ann is Oslo.``.

    RippleEdits has one wording per relation, and each is of one of these forms:

    - ``The [name of the] NOUN of|by|in SUBJECT is|are ANSWER``, where the noun is in lower case and ends at the first
      such preposition, except in ``place of birth``, ``country of citizenship``, ``head of state`` and the like.
      (Ending it at the last ``of`` would cut subjects such as *The Merchant of Venice*.)
    - ``The NOUN which SUBJECT is associated with|is a member of|is part of|is the capital of|plays in is ANSWER``,
    - ``The number of children SUBJECT has is ANSWER``, ``The name of the award SUBJECT won is ANSWER``,
    - ``SUBJECT follows|is followed by ANSWER``, only for the relations FOLLOWS and FOLLOWED_BY.

    The answer begins after the form's verb. A subject or an answer may contain that verb too (*Life is Beautiful*).
    Then the statement of the original fact, which has another answer, decides: both are equal up to the answer, so it
    begins after the last verb that they share. Without an original fact such a statement is refused.

    Args:
        statement: The edit's ``prompt``; one full stop at its end is not part of the answer.
        original: The same statement with the answer that was true before.
        relation: The relation, such as ``COUNTRY_OF_CITIZENSHIP``.

    Raises:
        InputError: If the statement has none of the forms, is ambiguous, or differs from the original fact before the
            answer.
    """
    sentence = statement.removesuffix(".")
    for before, between in _SEQUENCE if (relation or "").startswith("FOLLOW") else _FORMS:
        start = re.match(before, sentence)
        if start is None:
            continue
        verbs = re.finditer(between, sentence)
        ends = [verb for verb in verbs if verb.start() > start.end() and verb.end() < len(sentence)]
        if original is not None and ends:
            ends = [end for end in ends if original.startswith(sentence[: end.end()])][-1:]
            if not ends:
                msg = (
                    f"expected 'prompt' and the original fact's to be equal up to the answer, got {statement!r} and "
                    f"{original!r}; correct either."
                )
                raise InputError(msg)
        if len(ends) > 1:
            msg = (
                f"expected 'prompt' with a clear end of its subject, got {statement!r}, which is ambiguous; reword it."
            )
            raise InputError(msg)
        for end in ends:
            subject = sentence[start.end() : end.start()]
            return SplitStatement(start[0] + SLOT + end[0].rstrip(), subject, sentence[end.end() :])
    msg = (
        "expected 'prompt' to be a statement in RippleEdits' wording, such as 'The place of birth of Ann is Oslo.', "
        f"got {statement!r}, in which no subject is found; reword it."
    )
    raise InputError(msg)
