"""Statistics of preserved knowledge K0: the keys of the edited layers on ordinary text.

One pass over the text covers every layer and stops at the deepest one. Its results are, for each layer, the
eigenbasis of the mean ``C [d, d]`` of ``k kᵀ`` and a sample of keys for s(k, K0) (Eq. 3).

Notation: ``d`` inputs of an edited weight, ``s`` sampled keys, ``b`` rows of ``t`` tokens in a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from aeplus import functional as fn
from aeplus.errors import InputError, require_positive, require_seed, require_types
from aeplus.functional import Spectrum
from aeplus.models.decoder import Decoder, EditSite
from aeplus.models.hooks import on_input
from aeplus.models.tokens import token_ids
from aeplus.preserved.corpus import WIKI_SAMPLE, read_texts
from aeplus.utils.cache import load_tensors, save_tensors
from aeplus.utils.fingerprint import text_fingerprint, text_stamp, weights_fingerprint
from aeplus.utils.paths import cache_dir
from aeplus.utils.progress import Progress

_TOKENIZED = "A tokenizer is known by how it cuts 1 sentence: naïve, isn't it?"  # identifies a tokenizer in the cache
_EXCERPT_TOKENS = 16  # the sampled token last


@dataclass(frozen=True)
class PreservedOptions:
    """Where the preserved knowledge comes from.

    Attributes:
        corpus: ``wiki-sample``, a text file, a MediaWiki dump or a ``datasets`` id.
        tokens: Tokens of text to read; at least a few times ``d``, the inputs of an edited weight.
        window: Tokens in a row of text.
        sample: Number of keys kept for s(k, K0).
        batch: Rows run at once.
        seed: Seed of the key sample.
        keep: Which eigenvectors of ``C`` are held, in memory and on disk: ``all``, or those ``outside`` the method's
            null space. Edits are the same; reported leakage then takes the null space at its mean eigenvalue.
        facts: A file of facts that must survive, in any format of edits; the present answer is ``target_new`` (or the
            format's own field). Their keys enter C and the sample for s(k, K0).
        facts_weight: How much each of them counts in C: the share of all the text that it weighs as much as.
    """

    corpus: str = WIKI_SAMPLE
    tokens: int = 100_000
    window: int = 256
    sample: int = 2048
    batch: int = 8
    seed: int = 0
    keep: Literal["all", "outside"] = "all"
    facts: str | None = None
    facts_weight: float = 0.01

    def __post_init__(self) -> None:
        require_types(self, "preserved")
        require_positive(self, "preserved", "tokens", "window", "sample", "batch", "facts_weight")
        require_seed(self.seed, "preserved.seed")
        if self.keep not in ("all", "outside"):
            msg = f"expected preserved.keep all or outside, got {self.keep!r}; choose one of these."
            raise InputError(msg)


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of the preserved keys of one layer.

    Attributes:
        spectrum: Eigenvalues (ascending) and eigenvectors of ``C``.
        keys: A uniform sample of the preserved keys, ``[d, s]``.
        tokens: Number of tokens that ``C`` is the mean of.
    """

    spectrum: Spectrum
    keys: Tensor
    tokens: int

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "LayerStatistics":
        """The same on a device, with eigenvalues in a dtype.

        Eigenvectors and keys stay in theirs: the functions that use them cast a part at a time.
        """
        values = self.spectrum.values.to(device, dtype or self.spectrum.values.dtype)
        return LayerStatistics(Spectrum(values, self.spectrum.vectors.to(device)), self.keys.to(device), self.tokens)

    def leading(self, count: int) -> "LayerStatistics":
        """The same with the eigenvectors of the ``count`` largest eigenvalues only."""
        return replace(self, spectrum=self.spectrum.leading(count))


@dataclass(frozen=True)
class Kept:
    """Which eigenvectors of a layer's statistics are held.

    Attributes:
        name: What decides it, for the names of files.
        count: How many, those of the largest eigenvalues, of a layer's spectrum.
    """

    name: str
    count: Callable[[Spectrum], int]

    def of(self, statistics: LayerStatistics) -> LayerStatistics:
        """A layer's statistics with these only."""
        return statistics.leading(self.count(statistics.spectrum))


@dataclass(frozen=True)
class Moment:
    """The second moment of the preserved keys of one layer.

    Attributes:
        covariance: ``C`` ``[d, d]``, in float64.
        keys: A uniform sample of the preserved keys, ``[d, s]``.
        tokens: Number of tokens that ``C`` is the mean of.
    """

    covariance: Tensor
    keys: Tensor
    tokens: int

    def statistics(self) -> LayerStatistics:
        """The same with the eigenvectors of ``C``, whose decomposition is most of the work of a wide layer."""
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


@torch.no_grad()
def energy_of(statistics: LayerStatistics, matrix: Tensor) -> float:
    """``tr(A C Aᵀ)`` of ``A [o, d]``: the mean squared output of a weight or an update on preserved keys."""
    spectrum = statistics.to(matrix.device, torch.promote_types(matrix.dtype, torch.float32)).spectrum
    return float(fn.preserved_energy(matrix.to(spectrum.values.dtype), spectrum))


def load_or_collect(
    decoder: Decoder,
    tokenizer: Any,
    sites: Sequence[EditSite],
    options: PreservedOptions,
    progress: Progress,
    fingerprint: str | None = None,
    kept: Kept | None = None,
) -> list[LayerStatistics]:
    """Statistics of the given sites, from the cache if it holds them.

    The path of a cache file and its metadata contain the weights' fingerprint, the corpus and the layer, so another
    model's statistics cannot be used by mistake.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        sites: The edited layers.
        options: The corpus, and how much of it to read.
        progress: Shows the tokens read.
        fingerprint: The weights' fingerprint, if it has been computed already.
        kept: Which eigenvectors are held; all by default. A file with all of them serves too.

    Raises:
        InputError: If the corpus or a cache file cannot be read, or the keys are not finite.
    """
    fingerprint = fingerprint or weights_fingerprint(decoder.model)
    corpus = text_fingerprint(_corpus_fingerprint(options), token_ids(tokenizer, _TOKENIZED))
    folder = cache_dir() / "statistics" / fingerprint / corpus
    whole = {site.layer: folder / f"layer_{site.layer}.safetensors" for site in sites}
    parts = whole
    if kept is not None:
        parts = {layer: path.with_suffix(f".{kept.name}{path.suffix}") for layer, path in whole.items()}
    layers = decoder.ranks.first([layer for layer in whole if not (parts[layer].is_file() or whole[layer].is_file())])
    missing = [site for site in sites if site.layer in layers]

    def save(share: Sequence[tuple[EditSite, Moment]]) -> list[None]:
        for site, moment in share:
            statistics = moment.statistics()
            own = statistics if kept is None else kept.of(statistics)
            _save(parts[site.layer], own, f"{fingerprint} {corpus} {site.layer}")
        return [None] * len(share)

    if missing:
        moments = collect_moments(decoder, tokenizer, missing, options, progress)
        decoder.ranks.split(list(zip(missing, moments, strict=True)), save)
    found = []
    for site in sites:
        of_part = parts[site.layer].is_file()
        statistics = _load((parts if of_part else whole)[site.layer], f"{fingerprint} {corpus} {site.layer}")
        found.append(statistics if of_part or kept is None else kept.of(statistics))
    return found


def collect(
    decoder: Decoder, tokenizer: Any, sites: Sequence[EditSite], options: PreservedOptions, progress: Progress
) -> list[LayerStatistics]:
    """Computes the statistics of several layers; see :func:`collect_moments`.

    Raises:
        InputError: If the corpus cannot be read or is too short, or the keys are not finite.
    """
    return [moment.statistics() for moment in collect_moments(decoder, tokenizer, sites, options, progress)]


def collect_moments(
    decoder: Decoder, tokenizer: Any, sites: Sequence[EditSite], options: PreservedOptions, progress: Progress
) -> list[Moment]:
    """Sums up the keys of several layers in one pass over the text.

    Products are computed in float32 (a GPU's and a CPU's fast path) and summed in float64. Processes that share the
    model (``decoder.ranks``) share the text, and all get the whole.

    Raises:
        InputError: If the corpus cannot be read or is too short, or the keys are not finite.
    """
    sizes = [site.weight.shape[1] for site in sites]
    totals = [torch.zeros(d, d, dtype=torch.float64, device=decoder.device) for d in sizes]
    count = 0

    def add(index: int, keys: Tensor) -> None:
        totals[index] += (keys.T @ keys).double()

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

    The tokens are those of the key sample that :func:`collect` takes with the same options, so s(k, K0) is the same.

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
    device, limit = decoder.device, decoder.context_length
    if limit is not None and min(options.window, options.tokens) > limit:
        msg = f"expected preserved.window to fit the context of {limit} tokens, got {options.window}; lower it."
        raise InputError(msg)
    generator = torch.Generator().manual_seed(options.seed)
    modules = [site.module for site in sites]
    draws = torch.zeros(0)
    sample = [torch.zeros(0, site.weight.shape[1], device=device) for site in sites]
    with progress.task(name, options.tokens) as advance:
        for number, ids in enumerate(token_windows(tokenizer, options)):
            drawn = torch.cat([draws, torch.rand(ids.numel(), generator=generator)])
            draws, kept = drawn.topk(min(options.sample, len(drawn)))
            read(ids, kept)

            def receive(index: int, inputs: Tensor, kept: Tensor = kept) -> None:
                keys = inputs.reshape(-1, inputs.shape[-1]).float()
                if add is not None:
                    add(index, keys)
                sample[index] = torch.cat([sample[index], keys])[kept.to(device)]

            if number % decoder.ranks.count == decoder.ranks.number:
                with on_input(modules, receive, stop=True):
                    decoder.forward(ids)
            else:
                for index, keys in enumerate(sample):
                    added = keys.new_zeros(ids.numel(), keys.shape[1])
                    sample[index] = torch.cat([keys, added])[kept.to(device)]
            advance(ids.numel())
    return [decoder.ranks.summed(keys).T.contiguous() for keys in sample]


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


def _corpus_fingerprint(options: PreservedOptions) -> str:
    return text_fingerprint(
        options.corpus, text_stamp(options.corpus), options.tokens, options.window, options.sample, options.seed
    )


def _save(path: Path, statistics: LayerStatistics, identity: str) -> None:
    spectrum = statistics.spectrum
    tensors = {"values": spectrum.values.float(), "vectors": spectrum.vectors.float(), "keys": statistics.keys.float()}
    save_tensors(path, tensors, {"identity": identity, "tokens": str(statistics.tokens)})


def _load(path: Path, identity: str) -> LayerStatistics:
    expected = "statistics of this model and corpus"
    tensors, metadata = load_tensors(path, ("values", "vectors", "keys"), {"identity": identity}, expected)
    return LayerStatistics(Spectrum(tensors["values"], tensors["vectors"]), tensors["keys"], int(metadata["tokens"]))
