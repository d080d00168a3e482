"""CounterFact and multi-CounterFact."""

from collections.abc import Mapping
from dataclasses import replace

from aeplus.data.formats.fields import Record, Target, optional, text, texts, with_slot
from aeplus.edits import EditRequest, Probe

NAME = "CounterFact (requested_rewrite)"


def recognizes(record: Record) -> bool:
    """Whether a record has this format."""
    return isinstance(record.get("requested_rewrite"), Mapping)


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record. Its neighborhood asks for other subjects whose true answer is the same.

    Args:
        record: ``requested_rewrite``, and optionally ``paraphrase_prompts``, ``neighborhood_prompts``,
            ``generation_prompts``.
        target: Not used.

    Raises:
        InputError: If a field cannot be used.
    """
    edit = rewrite(record["requested_rewrite"])
    return [
        replace(
            edit,
            rephrase=texts(record, "paraphrase_prompts"),
            neighborhood=tuple(Probe(prompt, edit.target_true) for prompt in texts(record, "neighborhood_prompts")),
            generation=texts(record, "generation_prompts"),
        )
    ]


def rewrite(fields: Record) -> EditRequest:
    """The edit that a ``requested_rewrite`` describes, without tests.

    Args:
        fields: ``prompt`` (with ``{}``), ``subject``, ``target_new`` and optionally ``target_true``: strings, or
            objects with the string under ``str``.

    Raises:
        InputError: If a field cannot be used.
    """
    prompt, subject = text(fields, "prompt"), text(fields, "subject")
    new, true = fields.get("target_new"), fields.get("target_true")
    return EditRequest(
        prompt=with_slot(prompt, subject, "prompt"),
        subject=subject,
        target_new=text(new if isinstance(new, Mapping) else {"str": new}, "str", "'target_new'"),
        target_true=optional(true if isinstance(true, Mapping) else {"str": true}, "str"),
    )
