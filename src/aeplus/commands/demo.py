"""``aeplus demo-data``: the demo's edits, built from the analogy file that gensim bundles for its tests.

They contain every kind of conflict: facts the model knows firmly (with preserved knowledge), rewrites of previous
edits (with prior edits) and far-fetched targets (inconsistency). What the model knows, and in which forms, is
measured on the model when the set is built.
"""

import random
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aeplus.data.formats.plain import as_record
from aeplus.data.world_facts import ANALOGIES, read_pairs
from aeplus.edits import SLOT, EditRequest, Probe
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_model
from aeplus.models.predict import answer_probabilities
from aeplus.models.tokens import encode
from aeplus.preserved.corpus import gensim_file
from aeplus.utils.jsonl import write_json, write_jsonl
from aeplus.utils.paths import check_output, expanded


def run(options: Namespace) -> int:
    """Builds the demo's edits.

    Args:
        options: See :func:`~aeplus.commands.arguments.demo_data_parser`.

    Raises:
        InputError: If the model cannot be used or knows too little, or gensim is missing.
    """
    for name in _FILES:
        check_output(expanded(options.out) / name, "--out")
    demo = build_demo(*load_model(options.model))
    edits, preserved = write_demo(demo, expanded(options.out))
    print(f"{len(demo.edits)} edits in {edits}, {len(demo.preserved)} preserved facts in {preserved}")
    return 0


_FILES = ("edits.jsonl", "preserved.jsonl", "forms.json")
MIN_SHARE = 0.9
"""A form is used if the model answers at least this share of the facts it knows in it."""
Answered = Callable[[Sequence[str], Sequence[str]], Sequence[float | None]]
"""Maps prompts and answers to the answers' probabilities, ``None`` where the model answers something else."""


@dataclass(frozen=True)
class Relation:
    """A kind of fact: its pairs in the file, the forms of its prompts and the number of facts to take.

    Attributes:
        name: The first part of its edits' ids.
        sections: The file's sections.
        subject_first: Whether the subject is a pair's first word.
        prompt: The form of edits and neighborhood prompts.
        rewriting: The form of rewrites.
        tests: Forms for Generalization; the first two that the model answers are used.
        far: Targets of another kind.
        counts: Number of facts of each kind to edit (firm, plain, far), and of neighbors.
    """

    name: str
    sections: tuple[str, ...]
    subject_first: bool
    prompt: str
    rewriting: str
    tests: tuple[str, ...]
    far: tuple[str, ...]
    counts: tuple[int, int, int, int]


# The relation with the fewest facts comes first: a subject is used in one relation only, so that a neighbor
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
    """The demo's edits and their evaluation data.

    Attributes:
        edits: In order. An id such as ``capital-france`` identifies the fact; ``capital-france-2`` overwrites
            ``capital-france``, which is then superseded.
        preserved: Facts the model knows, neither edited nor neighbors; ``target_new`` is the true answer.
        forms: The share of the known facts that the model answers in each form, unused forms too.
        kinds: For each edit's id ``firm``, ``plain``, ``far`` or ``rewrite``.
    """

    edits: list[EditRequest]
    preserved: list[EditRequest]
    forms: dict[str, float]
    kinds: dict[str, str] = field(default_factory=dict)


def build_demo(model: Any, tokenizer: Any, seed: int = 0) -> DemoSet:
    """Builds the demo's edits for a model.

    Args:
        model: A causal language model of transformers, not edited.
        tokenizer: Its tokenizer.
        seed: Draws the facts and their new answers.

    Raises:
        InputError: If gensim is missing or the model knows too little.
    """
    decoder = Decoder(model)

    def answered(prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        return answer_probabilities(decoder, encode(tokenizer, prompts, answers))

    return compose_demo(read_pairs(gensim_file(ANALOGIES)), answered, seed)


def compose_demo(sections: Mapping[str, Mapping[str, str]], answered: Answered, seed: int = 0) -> DemoSet:
    """Chooses facts and targets; see :func:`build_demo`. The model is queried through ``answered`` alone."""
    rng = random.Random(seed)
    forms: dict[str, float] = {}
    taken: set[str] = set()
    kinds: dict[str, str] = {}
    firsts: list[EditRequest] = []
    rewrites: dict[str, EditRequest] = {}  # for each fact's id, how it could be rewritten
    preserved: list[EditRequest] = []
    for relation in RELATIONS:
        pairs = {a: b for section in relation.sections for a, b in sections.get(section, {}).items()}
        facts = pairs if relation.subject_first else {b: a for a, b in pairs.items()}
        facts = {subject: answer for subject, answer in facts.items() if subject not in taken}
        sure = _answers(relation.prompt, facts, answered)
        firm, plain, far, around = relation.counts
        if len(sure) < max(firm + plain + far + around, 3 * firm):
            msg = (
                f"expected a model that answers {firm + plain + far + around} prompts of the form {relation.prompt!r}, "
                f"got one that answers {len(sure)}; take a larger model or edits of your own."
            )
            raise InputError(msg)
        facts = {subject: facts[subject] for subject in sure}
        rewriting, tests = _good_forms(relation, facts, answered, forms)
        ranked = sorted(sure, key=lambda subject: -sure[subject])
        edited = rng.sample(ranked[: len(ranked) // 3], firm)  # firmly known: in the top third
        rest = [subject for subject in ranked if subject not in edited]
        rng.shuffle(rest)
        edited += rest[: plain + far]
        near, spare = rest[plain + far :][:around], rest[plain + far + around :]
        taken.update(edited, near)
        preserved += [EditRequest(relation.prompt, subject, facts[subject]) for subject in spare]
        strange = iter(rng.sample(relation.far, far))
        for subject, kind in zip(edited, ["firm"] * firm + ["plain"] * plain + ["far"] * far, strict=True):
            wrong = rng.sample(sorted(set(facts.values()) - {facts[subject]}), 2)
            around_it = rng.sample(near, 5)
            name = f"{relation.name}-{subject.casefold()}"
            first = EditRequest(
                prompt=relation.prompt,
                subject=subject,
                target_new=next(strange) if kind == "far" else wrong[0],
                statements=tuple(form.replace(SLOT, subject) for form in tests),
                neighborhood=tuple(Probe(relation.prompt.replace(SLOT, s), facts[s]) for s in around_it),
                target_true=facts[subject],
                fact=name,
                id=name,
            )
            firsts.append(first)
            kinds[first.id] = kind
            if kind != "far":
                again = replace(first, prompt=rewriting, target_new=wrong[1], id=f"{first.id}-2")
                rewrites[first.id], kinds[again.id] = again, "rewrite"
    edits = _ordered(firsts, kinds, rewrites, rng)
    return DemoSet(
        edits,
        [fact for fact in preserved if fact.subject not in taken],
        forms,
        {edit.id: kinds[edit.id] for edit in edits},
    )


def _ordered(
    firsts: list[EditRequest],
    kinds: Mapping[str, str],
    rewrites: Mapping[str, EditRequest],
    rng: random.Random,
) -> list[EditRequest]:
    """Four batches of ten, each with two far-fetched; the last two rewrite edits of the first two."""
    rng.shuffle(firsts)
    far = [edit for edit in firsts if kinds[edit.id] == "far"]
    near = [edit for edit in firsts if kinds[edit.id] != "far"]
    first, second, third, fourth = near[:8], near[8:16], near[16:19], near[19:]
    third += [rewrites[edit.id] for edit in rng.sample(first, 5)]
    fourth += [rewrites[edit.id] for edit in rng.sample(second, 5)]
    ordered = []
    for number, batch in enumerate((first, second, third, fourth)):
        batch += far[2 * number : 2 * number + 2]
        rng.shuffle(batch)
        ordered += batch
    return ordered


def _answers(form: str, facts: Mapping[str, str], answered: Answered) -> dict[str, float]:
    """The subjects whose fact the model answers in a form, with the answers' probabilities."""
    sure = answered([form.replace(SLOT, subject) for subject in facts], list(facts.values()))
    return {subject: p for subject, p in zip(facts, sure, strict=True) if p is not None}


def _good_forms(
    relation: Relation, facts: Mapping[str, str], answered: Answered, forms: dict[str, float]
) -> tuple[str, list[str]]:
    """The form of rewrites (the edits' own if the model fails in the other) and up to two test forms.

    Args:
        relation: Whose forms to try.
        facts: The facts that the model knows.
        answered: Queries the model.
        forms: Updated with the share of the facts answered in each form that was tried.
    """
    good: list[str] = []
    for form in relation.tests:
        if len(good) < 2:
            forms[form] = len(_answers(form, facts, answered)) / len(facts)
            good += [form] if forms[form] >= MIN_SHARE else []
    if not good:
        msg = (
            f"expected a model that answers {MIN_SHARE:.0%} of what it knows in a form such as {relation.tests[0]!r}, "
            "got one that does so in no form; take a larger model or edits of your own."
        )
        raise InputError(msg)
    forms[relation.rewriting] = len(_answers(relation.rewriting, facts, answered)) / len(facts)
    return relation.rewriting if forms[relation.rewriting] >= MIN_SHARE else relation.prompt, good


def write_demo(demo: DemoSet, folder: str | Path) -> tuple[Path, Path]:
    """Writes a demo set as JSON Lines, ``edits.jsonl`` and ``preserved.jsonl``, and ``forms.json``.

    Returns:
        The paths of the edits and of the preserved facts.

    Raises:
        InputError: If a file cannot be written.
    """
    folder = Path(folder)
    edits, preserved, forms = (folder / name for name in _FILES)
    facts = [{"prompt": f.prompt, "subject": f.subject, "target_new": f.target_new} for f in demo.preserved]
    write_jsonl(edits, [as_record(edit) for edit in demo.edits])
    write_jsonl(preserved, facts)
    write_json(forms, demo.forms)
    return edits, preserved
