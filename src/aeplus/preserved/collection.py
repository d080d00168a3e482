"""Collects the statistics of preserved knowledge: one pass over the text, for every layer, up to the deepest.

Notation: ``d`` inputs of an edited weight, ``s`` sampled keys, ``b`` rows of ``t`` tokens in a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from aeplus.errors import InputError
from aeplus.functional import Spectrum
from aeplus.models.decoder import Decoder
from aeplus.models.hooks import on_input
from aeplus.models.sites import EditSite
from aeplus.models.tokens import token_ids
from aeplus.preserved.corpus import read_texts
from aeplus.preserved.statistics import LayerStatistics, PreservedOptions
from aeplus.utils.progress import Progress

_EXCERPT_TOKENS = 16  # the sampled token last
_BLOCK = 1024  # rows of C at a time
_WITHOUT_FLOAT64 = ("mps",)  # types of devices


@dataclass(frozen=True)
class Moment:
    """The second moment of the preserved keys of one layer.

    Attributes:
        covariance: ``C`` ``[d, d]``, in float64; on the CPU where the layer's device has none.
        keys: A uniform sample of the preserved keys, ``[d, s]``.
        tokens: Number of tokens that ``C`` is the mean of.
    """

    covariance: Tensor
    keys: Tensor
    tokens: int

    def statistics(self) -> LayerStatistics:
        """The same with the eigenvectors of ``C``, whose decomposition is most of the work of a wide layer."""
        _make_symmetric(self.covariance)  # or else a second [d, d] would be
        return LayerStatistics(Spectrum.from_covariance(self.covariance), self.keys, self.tokens)


@dataclass(frozen=True)
class Excerpts:
    """Sampled keys of preserved text.

    Attributes:
        keys: For each layer the keys of the same ``s`` tokens, ``[d, s]``.
        texts: The text before each token, the token itself last.
    """

    keys: list[Tensor]
    texts: list[str]


def collect_moments(
    decoder: Decoder, tokenizer: Any, sites: Sequence[EditSite], options: PreservedOptions, progress: Progress
) -> list[Moment]:
    """Sums up the keys of several layers in one pass over the text.

    Products are computed in float32 (a GPU's and a CPU's fast path) and summed in float64. Keys of a model in half
    precision have no more digits than TensorFloat-32, so that a GPU's fast unit multiplies them exactly. Processes
    that share the model (``decoder.ranks``) share the text, and all get the whole.

    Raises:
        InputError: If the corpus cannot be read or is too short, or the keys are not finite.
    """
    weights = [site.weight for site in sites]
    totals = [torch.zeros(w.shape[1], w.shape[1], dtype=torch.float64, device=_exact_device(w)) for w in weights]
    count = 0

    exact = all(w.dtype in (torch.float16, torch.bfloat16) for w in weights)

    def add(index: int, keys: Tensor) -> None:
        with _tensor_float_32(exact):
            product = keys.T @ keys
        totals[index] += product.to(totals[index].device)

    def read(ids: Tensor, _: Tensor) -> None:
        nonlocal count
        count += ids.numel()

    name = "statistics of preserved knowledge"
    sample = _sample_keys(decoder, tokenizer, sites, options, progress, name, read, add)
    return [
        Moment(_finite(decoder.ranks.summed(total).div_(max(count, 1)), site), keys, count)
        for total, keys, site in zip(totals, sample, sites, strict=True)
    ]


def collect_excerpts(
    decoder: Decoder, tokenizer: Any, sites: Sequence[EditSite], options: PreservedOptions, progress: Progress
) -> Excerpts:
    """Samples keys with their text in one pass over the corpus.

    The tokens are those of the key sample that :func:`collect_moments` takes with the same options, so s(k, K0) is
    the same.

    Raises:
        InputError: If the corpus cannot be read or is too short.
    """
    texts = torch.zeros(0, _EXCERPT_TOKENS, dtype=torch.long)

    def read(ids: Tensor, kept: Tensor) -> None:
        nonlocal texts
        before = pad(ids, (_EXCERPT_TOKENS - 1, 0), value=-1).unfold(1, _EXCERPT_TOKENS, 1).flatten(0, 1)
        texts = torch.cat([texts, before])[kept]

    keys = _sample_keys(decoder, tokenizer, sites, options, progress, "preserved text", read)
    rows = [[token for token in row if token >= 0] for row in texts.tolist()]
    decoded = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return Excerpts(keys, [" ".join(text.split()) for text in decoded])


@torch.no_grad()
def _sample_keys(
    decoder: Decoder,
    tokenizer: Any,
    sites: Sequence[EditSite],
    options: PreservedOptions,
    progress: Progress,
    name: str,
    read: Callable[[Tensor, Tensor], None],
    add: Callable[[int, Tensor], None] | None = None,
) -> list[Tensor]:
    """Runs the text once up to the deepest site and keeps a uniform sample of the keys.

    The sample is a reservoir: each token draws a random number, and those with the largest are kept. Of processes that
    share the model, each runs every n-th batch; the others' keys are zeros to it, until all are added up at the end.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        sites: The edited layers.
        options: The corpus, and how much of it to read.
        progress: Shows the tokens read.
        name: Name of the progress bar.
        read: Called with each batch of token ids ``[b, t]`` and with the indices of the tokens that are kept, ``[s]``,
            into the previous sample followed by the batch.
        add: Called with a site's number and its keys of each batch that this process runs, ``[b * t, d]`` in float32.

    Returns:
        For each site the keys of the same ``s`` tokens, ``[d, s]``.
    """
    limit = decoder.context_length
    if limit is not None and min(options.window, options.tokens) > limit:
        msg = f"expected preserved.window to fit the context of {limit} tokens, got {options.window}; lower it."
        raise InputError(msg)
    generator = torch.Generator().manual_seed(options.seed)
    modules = [site.module for site in sites]
    draws = torch.zeros(0)
    sample = [torch.zeros(0, site.weight.shape[1], device=site.weight.device) for site in sites]
    with progress.task(name, options.tokens) as advance:
        for number, ids in enumerate(token_windows(tokenizer, options)):
            drawn = torch.cat([draws, torch.rand(ids.numel(), generator=generator)])
            draws, kept = drawn.topk(min(options.sample, len(drawn)))
            read(ids, kept)

            def receive(index: int, inputs: Tensor, kept: Tensor = kept) -> None:
                keys = inputs.reshape(-1, inputs.shape[-1]).float()
                if add is not None:
                    add(index, keys)
                sample[index] = torch.cat([sample[index], keys])[kept.to(keys.device)]

            if decoder.ranks.takes(number):
                with on_input(modules, receive, stop=True):
                    decoder.forward(ids)
            else:
                for index, keys in enumerate(sample):
                    added = keys.new_zeros(ids.numel(), keys.shape[1])
                    sample[index] = torch.cat([keys, added])[kept.to(keys.device)]
            advance(ids.numel())
    return [decoder.ranks.summed(keys).T.contiguous() for keys in sample]


def _exact_device(weight: Tensor) -> torch.device:
    """Where a weight's keys are summed up and decomposed: where it is, or on the CPU if there is no float64."""
    return torch.device("cpu") if weight.device.type in _WITHOUT_FLOAT64 else weight.device


@contextmanager
def _tensor_float_32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of float32 products to ten binary digits; restored behind the block."""
    backend = torch.backends.cuda.matmul
    # torch 2.9 has another name for it, and takes offense where both are used.
    name, value = ("fp32_precision", "tf32") if hasattr(backend, "fp32_precision") else ("allow_tf32", True)
    before = getattr(backend, name)
    if allowed:
        setattr(backend, name, value)
    try:
        yield
    finally:
        setattr(backend, name, before)


def _make_symmetric(matrix: Tensor) -> None:
    """Averages a matrix and its mirror image in place, but for what rounding makes of either."""
    for start in range(0, len(matrix), _BLOCK):
        rows = slice(start, start + _BLOCK)
        mean = (matrix[rows] + matrix[:, rows].T) / 2
        matrix[rows], matrix[:, rows] = mean, mean.T


def _finite(matrix: Tensor, site: EditSite) -> Tensor:
    if not bool(torch.isfinite(matrix).all()):
        msg = (
            f"expected finite keys at layer {site.layer}, got NaN or infinity on ordinary text; check the model's "
            "weights and dtype."
        )
        raise InputError(msg)
    return matrix


def token_windows(tokenizer: Any, options: PreservedOptions) -> Iterator[Tensor]:
    """Rows of the same number of tokens, ``[batch, window]``, ``options.tokens`` in all.

    Raises:
        InputError: If the corpus cannot be read or is shorter than one row.
    """
    size = min(options.window, options.tokens)
    rows = max(1, min(options.batch, options.tokens // size))
    left = options.tokens // size * size
    pending: list[int] = []
    for text in read_texts(options.corpus):
        pending += token_ids(tokenizer, text)
        while left and len(pending) >= (take := min(rows * size, left)):
            yield torch.tensor(pending[:take]).view(-1, size)
            pending = pending[take:]
            left -= take
        if not left:
            return
    whole = min(len(pending) // size * size, left)
    if whole:
        yield torch.tensor(pending[:whole]).view(-1, size)
    elif left == options.tokens // size * size:
        msg = (
            f"expected at least {size} tokens of text in the corpus {options.corpus!r}, got {len(pending)}; choose a "
            "longer one or lower preserved.window."
        )
        raise InputError(msg)
