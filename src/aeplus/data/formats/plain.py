"""The plain format, for your own edits: the fields of an edit under their names, or under those of other tools.

MEMIT and AlphaEdit write ``target_new`` as an object with the answer under ``str``; EasyEdit calls the tests
``rephrase_prompt``, ``locality_prompt`` (with ``locality_ground_truth``) and the true answer ``ground_truth``.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aeplus.data.formats.fields import (
    Record,
    Target,
    answer,
    answers,
    missing,
    optional,
    placed,
    tested,
    text,
    texts,
    written,
)
from aeplus.edits import EditRequest, Probe, Turn
from aeplus.errors import InputError

NAME = "plain (prompt, subject, target_new)"
_MEASURED = ("part", "conflict_preserved", "conflict_prior", "residual_norm", "free")  # by aeplus build-alphaset
IGNORED = frozenset(("relation", "relation_id", "source", "topic", *_MEASURED))


def recognizes(record: Record) -> bool:
    """Whether a record has the plain format. A missing subject is reported when it is parsed."""
    return {"prompt", "target_new"} <= record.keys()


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a plain record. A prompt without ``{}`` is complete and must contain the subject as a word.

    Args:
        record: ``prompt``, ``subject``, ``target_new``, and optionally every other field of
            :class:`~aeplus.edits.EditRequest`, or those of EasyEdit.
        target: Not used.

    Raises:
        InputError: If a field cannot be used.
    """
    turns, asked = chat_turns(record, "prompt")
    prompt, subject = placed(asked, text(record, "subject"), "prompt")
    true = "target_true" if not missing(record.get("target_true")) else "ground_truth"
    return [
        EditRequest(
            prompt=prompt,
            subject=subject,
            target_new=string_of(record, "target_new"),
            rephrase=(*texts(record, "rephrase"), *texts(record, "rephrase_prompt")),
            neighborhood=(*_probes(record, "neighborhood"), *_locality(record)),
            axes=_probes(record, "axes"),
            generation=texts(record, "generation"),
            aliases=answers(record, "aliases"),
            target_true=true_answer(record, true),
            fact=optional(record, "fact") or "",
            case=optional(record, "case") or "",
            turns=turns,
            openings=texts(record, "openings"),
            statements=texts(record, "statements"),
            attribute=optional(record, "attribute") or "",
        )
    ]


def chat_turns(record: Record, field: str) -> tuple[tuple[Turn, ...], str]:
    """The turns of a chat before its last, which is the user's and has the subject, and the last.

    A prompt is a text, alone or after the system's turn in the field ``system``, or a list of messages.

    Raises:
        InputError: If the messages are something else, or the last is not the user's.
    """
    value = record.get(field)
    system = () if missing(record.get("system")) else (("system", text(record, "system")),)
    if not isinstance(value, list | tuple) or not value:
        return system, written(record, field)
    turns = []
    for message in value:
        if not isinstance(message, Mapping):
            msg = f"expected {field!r} to be a text or a list of messages, got {message!r:.80} in it; correct it."
            raise InputError(msg)
        turns.append(
            (text(message, "role", f"role of {field!r}"), written(message, "content", f"content of {field!r}"))
        )
    if turns[-1][0] != "user":
        msg = (
            f"expected the last message of {field!r} to be the user's, which the answer follows, got one of "
            f"{turns[-1][0]!r}; end with the question."
        )
        raise InputError(msg)
    return (*system, *turns[:-1]), turns[-1][1]


def string_of(record: Record, field: str) -> str:
    """An answer, written as itself or as an object with it under ``str``.

    Raises:
        InputError: If it is missing, empty or something else.
    """
    value = record.get(field)
    return answer(value if isinstance(value, Mapping) else {"str": value}, "str", repr(field))


def true_answer(record: Record, field: str) -> str | None:
    """The same for an answer that may be missing; the first of a list.

    Raises:
        InputError: If it is something else.
    """
    value = record.get(field)
    return next(iter(answers(value, "str") if isinstance(value, Mapping) else answers(record, field)), None)


def as_record(request: EditRequest) -> dict[str, Any]:
    """An edit as a plain record, from which the readers make the same edit; empty fields are left out."""

    def kept(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if value not in ("", None, (), [])}

    fields = asdict(request)
    for name in ("neighborhood", "axes"):
        fields[name] = [kept(probe) for probe in fields[name]]
    if request.join == "auto":
        del fields["join"]
    turns = fields.pop("turns")
    if turns:
        chat = [*turns, ("user", request.prompt)]
        fields["prompt"] = [{"role": role, "content": content} for role, content in chat]
    del fields["context_at"], fields["asked"]
    return kept(fields)


def _locality(record: Record) -> tuple[Probe, ...]:
    """EasyEdit's locality prompts, each with its answer."""
    prompts = texts(record, "locality_prompt")
    value = record.get("locality_ground_truth")
    known = list(value) if isinstance(value, list | tuple) and len(prompts) > 1 else [value] * len(prompts)
    if len(known) != len(prompts):
        msg = (
            f"expected 'locality_ground_truth' to have an answer for each 'locality_prompt', got {len(known)} for "
            f"{len(prompts)}; correct either."
        )
        raise InputError(msg)
    probes = []
    for prompt, right in zip(prompts, known, strict=True):
        with tested(record):
            accepted = answers({"locality_ground_truth": right}, "locality_ground_truth")
            probes.append(Probe(prompt, next(iter(accepted), None), accepted[1:]))
    return tuple(probes)


def _probes(record: Record, field: str) -> tuple[Probe, ...]:
    value = record.get(field)
    items = [] if missing(value) else value if isinstance(value, list | tuple) else [value]
    probes = []
    for item in items:
        with tested(record):
            if not missing(item):
                probes.append(_probe(item, field))
    return tuple(probes)


def _probe(item: Any, field: str) -> Probe:
    if isinstance(item, str):
        return Probe(item)
    if isinstance(item, Mapping):
        prompt = written(item, "prompt", f"prompt of {field!r}")
        known = answers(item, "answer")
        first = answer(item, "answer") if isinstance(item.get("answer"), str) and known else next(iter(known), None)
        return Probe(prompt, first, (*known[1:], *answers(item, "aliases")), optional(item, "axis") or "")
    msg = f"expected {field!r} to list strings or objects with prompt and answer, got {item!r:.80}; correct it."
    raise InputError(msg)
