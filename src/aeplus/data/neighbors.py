"""Neighbourhoods for records that come without: prompts of the same form on other subjects."""

import random
from collections.abc import Sequence
from dataclasses import replace

from aeplus.data.request import EditRequest, Probe
from aeplus.errors import InputError


def fill_neighborhoods(
    requests: Sequence[EditRequest], pool: Sequence[EditRequest], count: int, seed: int
) -> list[EditRequest]:
    """Give each edit without a neighbourhood prompts of the pool's other records with the same template.

    The pool's targets are counterfactual, so what the unedited model answers is the right answer. No subject
    that is edited anywhere in ``requests`` serves as a neighbour.

    Args:
        requests: The edits; those that have a neighbourhood keep it.
        pool: Records to take prompts from, such as the rest of the file; it may hold the edits too.
        count: How many neighbours an edit gets at most; with no record of its form it gets none.
        seed: Which of them are drawn. An edit's draw does not depend on its place in the stream.

    Raises:
        InputError: If ``count`` is negative.
    """
    if count < 0:
        msg = f"The number of neighbours must be 0 or more, but is {count}; give a larger number."
        raise InputError(msg)
    edited = {request.subject.casefold() for request in requests}
    by_template: dict[str, dict[str, None]] = {}  # a dict for its order: sets of texts change with every run
    for record in pool:
        if record.subject.casefold() not in edited:
            by_template.setdefault(record.prompt, {})[record.question] = None

    def drawn(request: EditRequest) -> tuple[Probe, ...]:
        questions = list(by_template.get(request.prompt, ()))
        chance = random.Random(f"{seed} {request.question}")
        return tuple(Probe(text) for text in chance.sample(questions, min(count, len(questions))))

    return [request if request.neighborhood else replace(request, neighborhood=drawn(request)) for request in requests]
