"""Facts that need no download, ``gensim:world-facts``: 254 of the analogy file that gensim bundles for its tests.

Capitals, currencies and nationalities of countries, and the states of cities, each with the true answer, another one to
learn, other statements of the fact, and neighbors of two kinds: facts of the same relation on other subjects, and
other facts of the same subject. Small models know only a part of them, so neighbors have no answer of their own: the
unedited model's is the correct one.
"""

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aeplus.edits import SLOT
from aeplus.preserved.corpus import gensim_file

SOURCE = "gensim:world-facts"
ANALOGIES = "test/test_data/questions-words.txt"
"""The file, below gensim's folder."""
_NEIGHBORS = 5


@dataclass(frozen=True)
class Relation:
    """A kind of fact.

    Attributes:
        name: The first part of its records' ids.
        section: The file's section.
        subject_first: Whether the subject is a pair's first word.
        prompt: The form of its edits.
        statements: Other forms of it.
    """

    name: str
    section: str
    subject_first: bool
    prompt: str
    statements: tuple[str, ...]


RELATIONS = (
    Relation(
        "capital",
        "capital-world",
        False,
        "The capital of {} is",
        ("In {}, the capital is", "The country of {} is governed from its capital,"),
    ),
    Relation(
        "currency",
        "currency",
        True,
        "The unit of currency in {} is the",
        ("In {}, the unit of currency is the", "The basic unit of money in {} is the"),
    ),
    Relation(
        "nationality",
        "gram6-nationality-adjective",
        True,
        "The nationality of the people of {} is",
        ("In the country of {}, the nationality is", "Everyone born in {} has a nationality, which is"),
    ),
    Relation(
        "state",
        "city-in-state",
        True,
        "The city of {} is in the state of",
        ("The people of {} live in the state of", "The city of {} belongs to the state of"),
    ),
)


def read_pairs(path: Path) -> dict[str, dict[str, str]]:
    """Reads the analogy file: for each section, its pairs from first to second word."""
    sections: dict[str, dict[str, str]] = {}
    pairs: dict[str, str] = {}
    for line in path.read_text("utf-8").splitlines():
        if line.startswith(":"):
            pairs = sections.setdefault(line[1:].strip(), {})
        elif len(parts := line.split()) == 4:
            pairs |= {parts[0]: parts[1], parts[2]: parts[3]}
    return sections


def world_facts() -> list[dict[str, Any]]:
    """The facts as records of the plain format, always the same, in an order that mixes the relations.

    Raises:
        InputError: If gensim is missing.
    """
    return compose_facts(read_pairs(gensim_file(ANALOGIES)))


def compose_facts(sections: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """The records of :func:`world_facts`, from the sections of the analogy file."""
    facts: dict[Relation, dict[str, str]] = {}
    of_subject: dict[str, list[Relation]] = defaultdict(list)
    for relation in RELATIONS:
        pairs = sections.get(relation.section, {})
        facts[relation] = dict(pairs) if relation.subject_first else {answer: word for word, answer in pairs.items()}
        for subject in facts[relation]:
            of_subject[subject].append(relation)

    def asked(relation: Relation, subject: str) -> str:
        return relation.prompt.replace(SLOT, subject)

    records = []
    for relation, known in facts.items():
        answers = sorted(set(known.values()))
        for subject, true in known.items():
            rng = random.Random(f"{relation.name} {subject}")
            new = rng.choice([answer for answer in answers if answer != true])
            others = [other for other in known if other != subject]
            near = [asked(relation, other) for other in rng.sample(others, min(_NEIGHBORS, len(others)))]
            same = [asked(other, subject) for other in of_subject[subject] if other != relation]
            records.append(
                {
                    "id": f"{relation.name}-{subject.casefold().replace(' ', '-')}",
                    "prompt": relation.prompt,
                    "subject": subject,
                    "target_new": new,
                    "target_true": true,
                    "statements": [form.replace(SLOT, subject) for form in relation.statements],
                    "neighborhood": [*near, *same],
                }
            )
    random.Random(SOURCE).shuffle(records)
    return records
