"""The demo's edits, built from the analogy file that gensim carries for its tests.

Every kind of conflict is there: facts the model knows firmly (with preserved knowledge), rewrites of earlier
edits (with prior edits) and far-fetched targets (inconsistency). What the model knows, and in which forms, is
measured on the model when the set is built.
"""

import importlib.util
import json
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from aeplus.data.request import SLOT, EditRequest, Probe
from aeplus.errors import InputError

BATCH_SIZE = 10
"""The order of the edits is meant for batches of this size."""

MIN_SHARE = 0.9
"""A form is used if the model answers at least this share of the facts it knows in it."""

Answered = Callable[[Sequence[str], Sequence[str]], Sequence[float | None]]
"""Prompts and answers to the answers' probabilities, ``None`` where the model would say something else."""


@dataclass(frozen=True)
class Relation:
    """A kind of fact: where its pairs stand in the file, how it is asked and how much of it is taken.

    Attributes:
        name: The first part of its edits' names.
        sections: The file's sections.
        subject_first: Whether the subject is a pair's first word.
        prompt: The form of edits and neighbours.
        rewriting: The form of rewrites.
        tests: Forms for Generalization; the first two that the model answers are used.
        far: Targets of another kind.
        counts: How many facts of each kind to edit (firm, plain, far), and how many neighbours there are.
    """

    name: str
    sections: tuple[str, ...]
    subject_first: bool
    prompt: str
    rewriting: str
    tests: tuple[str, ...]
    far: tuple[str, ...]
    counts: tuple[int, int, int, int]


# The relation with the fewest facts comes first: a subject serves in one relation only, so that a neighbour
# in one is never edited in another.
RELATIONS = (
    Relation(
        "currency",
        ("currency",),
        True,
        "The unit of currency in {} is the",
        "The monetary unit of {} is the",
        ("In {}, the unit of currency is the", "The basic unit of money in {} is the"),
        ("violin", "horse"),
        (1, 2, 1, 5),
    ),
    Relation(
        "capital",
        ("capital-common-countries", "capital-world"),
        False,
        "The capital of {} is",
        "The capital city of {} is",
        (
            "In {}, the capital is",
            "The country of {} is governed from its capital,",
            "In the country of {}, the capital is",
        ),
        ("purple", "dollar", "Shakespeare", "football"),
        (5, 5, 4, 12),
    ),
    Relation(
        "state",
        ("city-in-state",),
        True,
        "The city of {} is in the state of",
        "The city of {} lies in the state of",
        (
            "The people of {} live in the state of",
            "The city of {} belongs to the state of",
            "The city of {} can be found in the state of",
        ),
        ("Japan", "chocolate", "Mozart"),
        (5, 4, 3, 12),
    ),
)


@dataclass(frozen=True)
class DemoSet:
    """The demo's edits and what they are measured with.

    Attributes:
        edits: In their order. An id such as ``capital-france`` names the fact; ``capital-france-2`` rewrites
            what ``capital-france`` wrote, which is then obsolete.
        preserved: Facts the model knows, neither edited nor neighbours; ``target_new`` is the true answer.
        forms: The share of the known facts that the model answers in each form, unused forms too.
        kinds: For each edit's id ``firm``, ``plain``, ``far`` or ``rewrite``.
    """

    edits: list[EditRequest]
    preserved: list[EditRequest]
    forms: dict[str, float]
    kinds: dict[str, str] = field(default_factory=dict)


def questions_words() -> Path:
    """Where gensim keeps its analogy file. (gensim itself is not imported: it takes seconds.)

    Raises:
        InputError: If gensim or the file is missing.
    """
    spec = importlib.util.find_spec("gensim")
    path = Path((spec and spec.origin) or "").parent / "test" / "test_data" / "questions-words.txt"
    if spec is None or not path.is_file():
        msg = "The demo's edits need the test data of gensim, which is missing; install it by 'pip install gensim'."
        raise InputError(msg)
    return path


def read_pairs(path: Path) -> dict[str, dict[str, str]]:
    """Read the analogy file: for each section, its pairs from first to second word."""
    sections: dict[str, dict[str, str]] = {}
    pairs: dict[str, str] = {}
    for line in path.read_text("utf-8").splitlines():
        if line.startswith(":"):
            pairs = sections.setdefault(line[1:].strip(), {})
        elif len(words := line.split()) == 4:
            pairs |= {words[0]: words[1], words[2]: words[3]}
    return sections


def build_demo(model: Any, tokenizer: Any, seed: int = 0) -> DemoSet:
    """Build the demo's edits for a model.

    Args:
        model: A causal language model of transformers, not edited.
        tokenizer: Its tokenizer.
        seed: Which facts are taken, and what they become.

    Raises:
        InputError: If gensim is missing or the model knows too little.
    """

    def answered(prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        return answer_probabilities(model, tokenizer, prompts, answers)

    return compose_demo(read_pairs(questions_words()), answered, seed)


def compose_demo(sections: Mapping[str, Mapping[str, str]], answered: Answered, seed: int = 0) -> DemoSet:
    """Choose facts and targets; see :func:`build_demo`. The model is asked through ``answered`` alone."""
    chance = random.Random(seed)
    forms: dict[str, float] = {}
    taken: set[str] = set()
    kinds: dict[str, list[EditRequest]] = {"firm": [], "plain": [], "far": []}
    later: dict[str, EditRequest] = {}  # for each fact's id, how it could be rewritten
    preserved = []
    for relation in RELATIONS:
        pairs = {a: b for section in relation.sections for a, b in sections.get(section, {}).items()}
        facts = pairs if relation.subject_first else {b: a for a, b in pairs.items()}
        facts = {subject: answer for subject, answer in facts.items() if subject not in taken}
        known = _known(relation.prompt, facts, answered)
        firm, plain, far, around = relation.counts
        if len(known) < firm + plain + far + around or firm > len(known) // 3:
            msg = (
                f"The demo's edits need a model that answers {firm + plain + far + around} prompts of the form "
                f"{relation.prompt!r}, but this one answers {len(known)}; take a larger model or edits of your own."
            )
            raise InputError(msg)
        true = {subject: facts[subject] for subject in known}
        tests = _good_forms(relation, true, answered, forms)

        ranked = sorted(known, key=lambda subject: -known[subject])
        edited = chance.sample(ranked[: len(ranked) // 3], firm)  # firmly known: among the top third
        rest = [subject for subject in ranked if subject not in edited]
        chance.shuffle(rest)
        edited += rest[: plain + far]
        near, spare = rest[plain + far :][:around], rest[plain + far + around :]
        taken |= {*edited, *near}
        names = sorted(set(facts.values()))
        strange = chance.sample(relation.far, far)
        for place, subject in enumerate(edited):
            kind = "firm" if place < firm else "plain" if place < firm + plain else "far"
            wrong = chance.sample([name for name in names if name != facts[subject]], 2)
            edit = EditRequest(
                prompt=relation.prompt,
                subject=subject,
                target_new=strange.pop() if kind == "far" else wrong[0],
                rephrase=tuple(form.replace(SLOT, subject) for form in tests),
                neighborhood=tuple(
                    Probe(relation.prompt.replace(SLOT, other), facts[other]) for other in chance.sample(near, 5)
                ),
                target_true=facts[subject],
                id=f"{relation.name}-{re.sub(r'[^a-z0-9]+', '-', subject.casefold())}",
            )
            kinds[kind].append(edit)
            if kind != "far":
                changed = {"prompt": relation.rewriting, "target_new": wrong[1], "id": f"{edit.id}-2"}
                later[edit.id] = EditRequest(**{name: getattr(edit, name) for name in _FIELDS} | changed)
        preserved += [EditRequest(relation.prompt, subject, facts[subject]) for subject in spare]
    edits, kind_of = _ordered(kinds, later, chance)
    preserved = [fact for fact in preserved if fact.subject not in taken]
    return DemoSet(edits, preserved, forms, kind_of)


_FIELDS = ("prompt", "subject", "target_new", "rephrase", "neighborhood", "target_true", "id")
