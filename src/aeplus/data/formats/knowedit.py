"""KnowEdit: WikiData-recent, WikiData-counterfact, ZsRE and WikiBio as that benchmark publishes them."""

from collections.abc import Iterator, Mapping
from typing import Any

from aeplus.data.formats import plain
from aeplus.data.formats.fields import (
    Record,
    Target,
    answer,
    answers,
    missing,
    objects,
    placed,
    tested,
    text,
    texts,
    written,
)
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError

NAME = "KnowEdit (prompt, subject, target_new, portability or locality)"

IGNORED = frozenset(
    ["subject_id", "target_id", "relation", "relation_id", "target_new_list", "rephrase_list", "tag", "source", "topic"]
)
_WIKIBIO = {"text": "prompt", "concept": "subject", "labels": "target_new"}  # WikiBio's names for these fields


def recognizes(record: Record) -> bool:
    """Whether a record has this format."""
    if plain.recognizes(record):
        return bool(record.keys() & {"portability", "locality"})
    return record.keys() >= _WIKIBIO.keys()


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record.

    Every kind of ``portability`` and ``locality`` is an axis, such as ``portability/Reasoning``, with the record's
    answers. A prompt of ``portability`` without an answer tests nothing and is left out.

    The prompts of ``locality`` are also the neighborhood, where the unedited model's answer is the correct one, which
    is how KnowEdit measures locality.

    Args:
        record: ``prompt``, ``subject``, ``target_new``, and optionally ``ground_truth`` (the answer before the edit),
            ``rephrase`` or ``rephrase_prompt``, ``portability`` and ``locality``: for each kind a list of objects with
            ``prompt`` and ``ground_truth`` or, as EasyEdit passes them on, one object with a list of each, of equal
            length. The ``ground_truth`` of a prompt is a string, a list of strings or a list of lists of aliases.
        target: Not used.

    Raises:
        InputError: If a field cannot be used.
    """
    own = {known: name for name, known in _WIKIBIO.items()} if not plain.recognizes(record) else {}
    names = {known: own.get(known, known) for known in _WIKIBIO.values()}
    subject = text(record, names["subject"], "'subject'")
    prompt, subject = placed(written(record, names["prompt"], "'prompt'"), subject, "prompt")
    local = list(_probes(record, "locality"))
    return [
        EditRequest(
            prompt=prompt,
            subject=subject,
            target_new=answer(record, names["target_new"], "'target_new'"),
            rephrase=texts(record, "rephrase") or texts(record, "rephrase_prompt"),
            neighborhood=tuple(dict.fromkeys(Probe(probe.prompt) for probe in local)),
            axes=tuple(probe for probe in (*_probes(record, "portability"), *local) if probe.answer is not None),
            target_true=next(iter(answers(record, "ground_truth")), None),
        )
    ]


def _probes(record: Record, group: str) -> Iterator[Probe]:
    axes = {} if missing(record.get(group)) else record[group]
    if not isinstance(axes, Mapping):
        msg = f"expected {group!r} to be an object with a list of prompts for each kind, got {axes!r:.80}; correct it."
        raise InputError(msg)
    for name in axes:
        for test in objects(axes, name):
            for prompt, truth in _asked(record, test):
                with tested(record):
                    right = answers({"ground_truth": truth}, "ground_truth")
                    asked = written({"prompt": prompt}, "prompt")
                    yield Probe(asked, right[0] if right else None, right[1:], f"{group}/{name}")


def _asked(record: Record, test: Record) -> list[tuple[Any, Any]]:
    """The prompts of a test, each with its answers, unchecked."""
    prompts, truth = test.get("prompt"), test.get("ground_truth")
    prompts = prompts if isinstance(prompts, list | tuple) else [prompts]
    known = list(truth) if isinstance(truth, list | tuple) and truth and len(prompts) > 1 else [truth] * len(prompts)
    if len(known) != len(prompts):
        with tested(record):
            msg = (
                f"expected 'ground_truth' to have the answers for each 'prompt', got {len(known)} for {len(prompts)}; "
                "correct either."
            )
            raise InputError(msg)
        return []
    return list(zip(prompts, known, strict=True))
