"""Named statements that must survive: their keys enter C with a weight, and the sample for s(k, K0).

On ordinary text a single fact weighs next to nothing in C: one key among 50,000. A statement that is named counts as
much as a share of all the text, so that its key is no part of the null space, and an edit that collides with it
conflicts with preserved knowledge (Lemma 1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional import Spectrum
from aeplus.models.decoder import Decoder, at_least_float32
from aeplus.models.hooks import at_columns, on_input
from aeplus.models.predict import batches
from aeplus.models.sites import EditSite
from aeplus.models.tokens import TokenRow, encode, pad
from aeplus.preserved.collection import Excerpts
from aeplus.preserved.statistics import LayerStatistics

_BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Statement:
    """A fact that must survive.

    Attributes:
        prompt: The prompt with its subject.
        answer: What the model answers to it.
        subject_end: Index in the prompt just after the subject's last character: where its key is, as an edit's.
        join: How prompt and answer are joined, as an edit's.
        context_at: Where in the prompt contexts go, an index before the subject, as an edit's.
    """

    prompt: str
    answer: str
    subject_end: int
    join: str = "auto"
    context_at: int = 0

    def behind(self, context: str) -> str:
        """The prompt with a context where its own text begins."""
        return self.prompt[: self.context_at] + context + self.prompt[self.context_at :]

    def head(self, context: str = "") -> str:
        """The same up to the end of the subject."""
        return self.behind(context)[: len(context) + self.subject_end]


@torch.no_grad()
def statement_keys(
    decoder: Decoder,
    tokenizer: Any,
    sites: Sequence[EditSite],
    statements: Sequence[Statement],
    contexts: Sequence[str] = ("",),
) -> list[Tensor]:
    """The keys of statements at their subjects' last tokens, behind every context, as edits are learned.

    Args:
        decoder: The unedited model.
        tokenizer: Its tokenizer.
        sites: The edited layers.
        statements: At least one, ``s``.
        contexts: ``c`` prefixes of each.

    Returns:
        For each site ``[d, s * c]``, the keys of a statement side by side.

    Raises:
        InputError: If a statement is too long for the model, or a key is not finite.
    """
    pairs = [(statement, context) for statement in statements for context in contexts]
    rows = encode(
        tokenizer,
        [statement.behind(context) for statement, context in pairs],
        [statement.answer for statement, _ in pairs],
        [len(statement.head(context)) for statement, context in pairs],
        decoder.context_length,
        [statement.join for statement, _ in pairs],
    )
    found: list[dict[TokenRow, Tensor]] = [{} for _ in sites]
    ordered = sorted(set(rows), key=lambda row: len(row.ids))
    for batch in batches(ordered, _BATCH_TOKENS):
        marks = torch.tensor([row.mark for row in batch])

        def receive(index: int, inputs: Tensor, batch: Sequence[TokenRow] = batch, marks: Tensor = marks) -> None:
            found[index].update(zip(batch, at_least_float32(at_columns(inputs, marks)), strict=True))

        with on_input([site.module for site in sites], receive, stop=True):
            decoder.forward(*pad([row.ids for row in batch], "right"))
    keys = [torch.stack([own[row] for row in rows], 1) for own in found]
    for site, own in zip(sites, keys, strict=True):
        if not bool(torch.isfinite(own).all()):
            msg = (
                f"expected finite keys at layer {site.layer}, got NaN or infinity; check the model's weights and dtype."
            )
            raise InputError(msg)
    return keys


def with_statements(
    statistics: Sequence[LayerStatistics], keys: Sequence[Tensor], weight: float
) -> list[LayerStatistics]:
    """Statistics of preserved knowledge to which statements are added, ``C + w Σ k kᵀ``.

    Args:
        statistics: Of each layer, from text.
        keys: The statements' keys at each, ``[d, s]``.
        weight: ``w``, the share of the text that one key counts as much as.
    """
    return [_with(stats, own, weight) for stats, own in zip(statistics, keys, strict=True)]


def _with(statistics: LayerStatistics, keys: Tensor, weight: float) -> LayerStatistics:
    spectrum, own = statistics.spectrum, keys.to(statistics.keys.device)
    device = own.device if own.device.type == "cuda" else torch.device("cpu")
    wide = own.to(device, torch.float64)
    vectors = spectrum.vectors.to(device, torch.float64)
    covariance = (vectors * spectrum.values.to(device, torch.float64)) @ vectors.T + weight * wide @ wide.T
    found = Spectrum.from_covariance(covariance).to(spectrum.vectors.device, spectrum.vectors.dtype)
    return LayerStatistics(found, torch.cat([statistics.keys, own.to(statistics.keys)], 1), statistics.tokens)


def with_excerpts(
    excerpts: Excerpts, keys: Sequence[Tensor], statements: Iterable[Statement], contexts: Sequence[str] = ("",)
) -> Excerpts:
    """Sampled text to which statements are added, each behind every context and up to the end of its subject."""
    texts = [*excerpts.texts, *(s.head(context) for s in statements for context in contexts)]
    joined = [torch.cat([own, more.to(own)], 1) for own, more in zip(excerpts.keys, keys, strict=True)]
    return replace(excerpts, keys=joined, texts=texts)
