"""What is measured on freely generated text: whether the answer comes first, fluency and consistency."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from aeplus.data.request import EditRequest
from aeplus.metrics.consistency import Consistency, References
from aeplus.metrics.evaluate import PromptItem, latest_numbered
from aeplus.metrics.fluency import Fluency
from aeplus.metrics.generation import GenerationSuccess, generate
from aeplus.metrics.mean import Interval
from aeplus.metrics.options import SuiteOptions
from aeplus.metrics.success import ASPECTS
from aeplus.models.sites import Decoder
from aeplus.models.tokens import encode


def measure_generation(
    decoder: Decoder, tokenizer: Any, items: Sequence[PromptItem], options: SuiteOptions
) -> dict[str, Any]:
    """How often greedy text begins with an accepted answer, for each aspect, and the mean of the aspects.

    Prompts without a known answer are left out.
    """
    known = [item for item in items if item.answer is not None]
    answers = [(str(item.answer), *item.aliases) for item in known]
    spoken = sorted({f" {text}" for accepted in answers for text in accepted})
    longest = max((len(row.ids) for row in encode(tokenizer, spoken)), default=0)
    length = max(options.generation_length, longest)
    texts = generate(decoder, tokenizer, [item.prompt for item in known], length, options.batch_tokens)
    found: dict[str, Any] = {}
    for aspect in ASPECTS:
        metric = GenerationSuccess()
        rows = [row for row in zip(known, texts, answers, strict=True) if row[0].aspect == aspect]
        metric.update([text for _, text, _ in rows], [a for *_, a in rows], [item.edit for item, *_ in rows])
        found[aspect] = metric.interval(*options.sampling)
    values = [part["value"] for part in found.values() if part["value"] is not None]
    return {**found, "score": sum(values) / len(values) if values else None}


def measure_fluency(
    decoder: Decoder,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    references: References,
    options: SuiteOptions,
    dropped: frozenset[str] = frozenset(),
) -> dict[str, Interval]:
    """The entropy of text that goes on from the generation prompts, and its likeness to the references.

    As in ROME's code the prompt is part of the text, and all texts of an edit are compared with its references at
    once. An edit without generation prompts goes on from its own prompt.
    """
    edits = latest_numbered(requests)
    prompts = [
        (prompt, number)
        for number, edit in edits
        for prompt in (edit.generation or (edit.question,))
        if prompt not in dropped
    ]
    asked, numbers = [prompt for prompt, _ in prompts], [number for _, number in prompts]
    spoken = generate(decoder, tokenizer, asked, options.fluency_length, options.batch_tokens)
    by_edit: dict[int, list[str]] = defaultdict(list)
    for number, prompt, text in zip(numbers, asked, spoken, strict=True):
        by_edit[number].append(f"{prompt} {text}")
    entropy = Fluency()
    for number, texts in by_edit.items():
        entropy.update(texts, [number] * len(texts))
    consistency: Interval = {"value": None, "low": None, "high": None, "count": 0}
    named = [(n, references[edit.target_new]) for n, edit in edits if n in by_edit]
    known = [(n, text) for n, text in named if text is not None]
    if known:
        metric = Consistency(references.documents)
        metric.update([" ".join(by_edit[n]) for n, _ in known], [text for _, text in known], [n for n, _ in known])
        consistency = metric.interval(*options.sampling)
    return {"entropy": entropy.interval(*options.sampling), "consistency": consistency}
