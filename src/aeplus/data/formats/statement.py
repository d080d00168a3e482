"""The subject of a RippleEdits statement, which its records do not give."""

import re
from typing import NamedTuple

from aeplus.data.request import SLOT
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
