"""WikiBigEdit: questions on facts that changed between two dumps of Wikidata."""

from aeplus.data.formats.fields import Record, Target, answer, answers, missing, placed, tested, text, texts, written
from aeplus.edits import EditRequest, Probe

NAME = "WikiBigEdit (update, subject, ans)"
IGNORED = frozenset(("tag", "relation", "object", "subject_id", "relation_id", "object_id"))


def recognizes(record: Record) -> bool:
    """Whether a record has this format."""
    return {"update", "ans"} <= record.keys()


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record.

    The rephrasing in another voice is the axis ``persona``, the question that needs a second fact ``multi_hop``.

    Args:
        record: ``subject``, ``update``, ``ans``, and optionally ``rephrase``, ``personas``, ``loc`` with ``loc_ans``
            and ``mhop`` with ``mhop_ans``.
        target: Not used.

    Raises:
        InputError: If a field cannot be used.
    """
    prompt, subject = placed(written(record, "update"), text(record, "subject"), "update", slots=False)
    new = answer(record, "ans")
    axes = [Probe(persona, new, (), "persona") for name in record if name.startswith("personas")
            for persona in texts(record, name)]  # fmt: skip
    if not missing(record.get("mhop")):
        with tested(record):
            axes.append(Probe(written(record, "mhop"), answer(record, "mhop_ans"), (), "multi_hop"))
    return [EditRequest(prompt, subject, new, texts(record, "rephrase"), local_probes(record, record), tuple(axes))]


def local_probes(record: Record, place: Record) -> tuple[Probe, ...]:
    """The neighborhood prompt ``loc`` of a record, with its answer ``loc_ans`` if there is one.

    Args:
        record: The whole record.
        place: Where the two stand.

    Raises:
        InputError: If a field cannot be used.
    """
    if missing(place.get("loc")):
        return ()
    with tested(record):
        known = answers(place, "loc_ans")
        return (Probe(written(place, "loc"), next(iter(known), None), known[1:]),)
    return ()
