"""Free generation: whether the new answer comes first or is named, how fluent and how consistent the text is."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from aeplus.edits import EditRequest
from aeplus.evaluation.questions import PromptItem, holding_numbered
from aeplus.evaluation.records import Found
from aeplus.evaluation.references import References
from aeplus.metrics.mean import WHOLE, Interval, Sampling
from aeplus.metrics.success import ASPECTS, PARTS
from aeplus.metrics.text import Consistency, Fluency, GenerationSuccess, NamingSuccess, weighted_entropy
from aeplus.models.decoder import Decoder
from aeplus.models.generate import generate, has_room
from aeplus.models.tokens import encode
from aeplus.texts import joined
from aeplus.utils.tables import counted

CRITERIA: dict[str, type[GenerationSuccess]] = {"generation": GenerationSuccess, "contains": NamingSuccess}
"""What counts as right in generated text, by protocol: the answer comes first, or is named anywhere."""


def measure_generation(
    decoder: Decoder,
    tokenizer: Any,
    items: Sequence[PromptItem],
    length: int = 16,
    batch_tokens: int = 1024,
    sampling: Sampling = (1000, 0.95, 0),
    criterion: str = "generation",
    found: Found | None = None,
) -> dict[str, Any]:
    """How often greedy text begins with an accepted answer, or contains one.

    Prompts without a known answer are left out, and those that leave no room to generate, which a warning counts.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        items: The test prompts.
        length: Tokens to generate; at least as many as the longest answer has.
        batch_tokens: Tokens run at once.
        sampling: The arguments of the intervals: samples, confidence, seed, and what their mean is over.
        criterion: One of :data:`CRITERIA`.
        found: Gets each prompt's text, and whether it is right.

    Returns:
        An interval for each aspect and each way of asking that has prompts, and ``score``, the mean of the aspects.
    """
    known = [item for item in items if item.answer is not None]
    pairs = [(item, text) for item in known for text in (str(item.answer), *item.aliases)]
    prompts, joins = [item.prompt for item, _ in pairs], [item.join for item, _ in pairs]
    rows = encode(tokenizer, prompts, [text for _, text in pairs], joins=joins)
    length = max(length, *(len(row.answer_ids) for row in rows), 0)
    asked = [item.prompt for item in known], length, [item.join for item in known]
    known = [item for item, fits in zip(known, _fitting(decoder, tokenizer, *asked, criterion), strict=True) if fits]
    answers = [(str(item.answer), *item.aliases) for item in known]
    shared = length, batch_tokens, [item.join for item in known]
    texts = generate(decoder, tokenizer, [item.prompt for item in known], *shared)
    if found is not None:
        for item, text, accepted in zip(known, texts, answers, strict=True):
            found.setdefault(item, {})[criterion] = {"text": text, "right": CRITERIA[criterion].right(text, accepted)}
    intervals: dict[str, Any] = {}
    for name in (*ASPECTS, *PARTS):
        metric = CRITERIA[criterion](**WHOLE)
        own = [row for row in zip(known, texts, answers, strict=True) if name in row[0].names]
        if own or name in ASPECTS:
            metric.update([text for _, text, _ in own], [a for *_, a in own], [item.edit for item, *_ in own])
            intervals[name] = metric.interval(*sampling)
    values = [intervals[name]["value"] for name in ASPECTS if intervals[name]["value"] is not None]
    return {**intervals, "score": sum(values) / len(values) if values else None}


def measure_fluency(
    decoder: Decoder,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    references: References,
    length: int = 100,
    batch_tokens: int = 1024,
    sampling: Sampling = (1000, 0.95, 0),
    dropped: frozenset[str] = frozenset(),
    top_k: int = 1,
    found: Found | None = None,
    total: bool = False,
) -> dict[str, Interval]:
    """The n-gram entropy of text generated from the generation prompts, and its similarity to the references.

    As in ROME's code the prompt is part of the text, and all texts of an edit are compared with its references at
    once. For an edit without generation prompts its own prompt is used. Prompts that leave no room to generate are left
    out, and a warning counts them.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        requests: The edits, in order; superseded ones do not count.
        references: Reference texts; an edit whose answer has none does not count in ``consistency``.
        length: Tokens to generate.
        batch_tokens: Tokens run at once.
        sampling: The arguments of the intervals: samples, confidence, seed, and what their mean is over.
        dropped: Prompts that must not count.
        top_k: Sample each token out of so many; 1 for the likeliest. ROME's code takes 5.
        found: Gets each prompt's text without the prompt, and its entropy with it.
        total: Whether ``length`` is that of the prompt with its text, which nothing ends before, as in ROME's code.

    Returns:
        The intervals ``entropy``, in bits, and ``consistency``, in percent.

    Raises:
        InputError: If scikit-learn is missing and there are references.
    """
    edits = holding_numbered(requests)
    pairs = [
        (number, prompt, edit.join)
        for number, edit in edits
        for prompt in (edit.generation or (edit.question,))
        if prompt not in dropped
    ]
    all_of = [prompt for _, prompt, _ in pairs], length, [join for *_, join in pairs]
    fitting = _fitting(decoder, tokenizer, *all_of, "fluency", total)
    pairs = [pair for pair, fits in zip(pairs, fitting, strict=True) if fits]
    asked, joins = [prompt for _, prompt, _ in pairs], [join for *_, join in pairs]
    texts = generate(decoder, tokenizer, asked, length, batch_tokens, joins, top_k, sampling[2], total)
    by_edit: dict[int, list[str]] = defaultdict(list)
    for (number, prompt, join), text in zip(pairs, texts, strict=True):
        by_edit[number].append(whole := joined(prompt, text, join))
        if found is not None:
            item = PromptItem("fluency", prompt, None, edit=number, join=join)
            found[item] = {"fluency": {"text": text, "entropy": weighted_entropy(whole)}}
    entropy = Fluency(**WHOLE)
    for number, own in by_edit.items():
        entropy.update(own, [number] * len(own))
    consistency: Interval = {"value": None, "low": None, "high": None, "count": 0}
    named = [(number, references.of(edit)) for number, edit in edits if number in by_edit]
    known = [(number, text) for number, text in named if text is not None]
    if known:
        metric = Consistency(references.documents, **WHOLE)
        metric.update([" ".join(by_edit[n]) for n, _ in known], [text for _, text in known], [n for n, _ in known])
        consistency = metric.interval(*sampling)
    return {"entropy": entropy.interval(*sampling), "consistency": consistency}


def _fitting(
    decoder: Decoder,
    tokenizer: Any,
    prompts: Sequence[str],
    length: int,
    joins: Sequence[str],
    protocol: str,
    total: bool = False,
) -> list[bool]:
    """Which prompts leave room to generate."""
    fits = has_room(decoder, tokenizer, prompts, length, joins, total)
    if lost := [prompt for prompt, fit in zip(prompts, fits, strict=True) if not fit]:
        what = f"a text of {length} tokens" if total else f"{length} generated tokens"
        warnings.warn(
            f"{counted(len(lost), 'prompt')} without room for {what} in the model's context of "
            f"{decoder.context_length}, left out of {protocol}, first {lost[0][:60]!r}",
            stacklevel=3,
        )
    return fits
