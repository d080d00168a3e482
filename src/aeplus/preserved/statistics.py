"""Statistics of preserved knowledge K0: what the edited layers see on ordinary text.

One pass over the text gathers every layer and stops at the deepest one. Kept for each layer are the mean
``C [d, d]`` of ``k kᵀ``, its eigenbasis, and a sample of keys for s(k, K0) (Eq. 3).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from aeplus import functional as fn
from aeplus.errors import InputError, require_positive
from aeplus.functional import Spectrum
from aeplus.models.decoder import Decoder, EditSite
from aeplus.models.hooks import on_input
from aeplus.preserved.corpus import WIKI_SAMPLE, read_texts
from aeplus.utils.fingerprint import text_fingerprint, text_stamp, weights_fingerprint
from aeplus.utils.paths import cache_dir, whole_file
from aeplus.utils.progress import Progress

_SAMPLE = "A tokenizer is known by how it cuts 1 sentence: naïve, isn't it?"


@dataclass(frozen=True)
class PreservedOptions:
    """Where the preserved knowledge comes from.

    Attributes:
        corpus: ``wiki-sample``, a text file, a MediaWiki dump or a ``datasets`` id.
        tokens: Tokens of text to read. A few times ``d`` of the model is the least.
        window: Tokens in a row of text.
        sample: Keys to keep for s(k, K0).
        batch: Rows run at once.
        seed: Seed of the key sample.
    """

    corpus: str = WIKI_SAMPLE
    tokens: int = 100_000
    window: int = 256
    sample: int = 2048
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "preserved", "tokens", "window", "sample", "batch")


@dataclass(frozen=True)
class LayerStatistics:
    """What is known of the preserved keys of one layer.

    Attributes:
        spectrum: Eigenvalues (ascending) and eigenvectors of ``C``.
        keys: A uniform sample of the preserved keys, ``[d, s]``.
        tokens: Over how many tokens ``C`` is the mean.
    """

    spectrum: Spectrum
    keys: Tensor
    tokens: int

    def to(self, device: torch.device, dtype: torch.dtype) -> "LayerStatistics":
        """The same on a device and in a dtype."""
        return LayerStatistics(
            Spectrum(self.spectrum.values.to(device, dtype), self.spectrum.vectors.to(device, dtype)),
            self.keys.to(device, dtype),
            self.tokens,
        )


@torch.no_grad()
def preserved_energy(statistics: LayerStatistics, matrix: Tensor) -> float:
    """``tr(A C Aᵀ)`` of ``A [o, d]``: how much preserved keys see of a weight or an update."""
    spectrum = statistics.to(matrix.device, torch.promote_types(matrix.dtype, torch.float32)).spectrum
    return float(fn.preserved_energy(matrix.to(spectrum.values.dtype), spectrum))


def load_or_collect(
    decoder: Decoder,
    tokenizer: Any,
    sites: Sequence[EditSite],
    options: PreservedOptions,
    progress: Progress,
    fingerprint: str | None = None,
) -> list[LayerStatistics]:
    """Statistics of the given sites, from the cache where it holds them.

    A cache entry is found by the weights' fingerprint, the corpus and the layer, and carries them inside, so
    another model's statistics cannot be taken by mistake.

    Raises:
        InputError: If the corpus cannot be read, or the keys are not finite.
    """
    fingerprint = fingerprint or weights_fingerprint(decoder.model)
    corpus = text_fingerprint(_corpus_fingerprint(options), tokenizer(_SAMPLE)["input_ids"])
    paths = {site.layer: _path(fingerprint, corpus, site.layer) for site in sites}
    missing = [site for site in sites if not paths[site.layer].is_file()]
    if missing:
        collected = collect(decoder, tokenizer, missing, options, progress)
        for site, statistics in zip(missing, collected, strict=True):
            _save(paths[site.layer], statistics, f"{fingerprint} {corpus} {site.layer}")
    return [_load(paths[site.layer], f"{fingerprint} {corpus} {site.layer}") for site in sites]


@torch.no_grad()
def collect(
    decoder: Decoder, tokenizer: Any, sites: Sequence[EditSite], options: PreservedOptions, progress: Progress
) -> list[LayerStatistics]:
    """Gathers the statistics of several layers in one pass over the text.

    Products are made in float32 (a GPU's and a CPU's fast path) and added up in float64.

    Raises:
        InputError: If the text is too short, or the keys are not finite.
    """
    device, limit = decoder.device, decoder.context_length
    if limit is not None and min(options.window, options.tokens) > limit:
        msg = f"preserved.window must fit the model's context of {limit} tokens, but is {options.window}; lower it."
        raise InputError(msg)
    generator = torch.Generator().manual_seed(options.seed)
    sums = [_Running(site.weight.shape[1], options.sample, device) for site in sites]
    modules = [site.module for site in sites]
    with progress.task("statistics of preserved knowledge", options.tokens) as advance:
        for ids in token_windows(tokenizer, options):
            draws = torch.rand(ids.numel(), generator=generator)  # the same tokens are sampled at every layer

            def receive(index: int, keys: Tensor, draws: Tensor = draws) -> None:
                sums[index].add(keys.flatten(0, 1).float(), draws.to(device))

            with on_input(modules, receive, stop=True):
                decoder.backbone(input_ids=ids.to(device), use_cache=False)
            advance(ids.numel())
    return [
        LayerStatistics(Spectrum.from_covariance(_finite(s.mean(), site)), s.keys.T.contiguous(), s.count)
        for s, site in zip(sums, sites, strict=True)
    ]


class _Running:
    """A running mean of k kᵀ, and a reservoir: the keys with the largest random draws are a uniform sample."""

    def __init__(self, d: int, sample: int, device: torch.device) -> None:
        self.total = torch.zeros(d, d, dtype=torch.float64, device=device)
        self.count = 0
        self.keys = torch.zeros(0, d, device=device)
        self.draws = torch.zeros(0, device=device)
        self.sample = sample

    def add(self, keys: Tensor, draws: Tensor) -> None:
        self.total += (keys.T @ keys).double()
        self.count += len(keys)
        draws, keys = torch.cat([self.draws, draws]), torch.cat([self.keys, keys])
        self.draws, best = draws.topk(min(self.sample, len(draws)))
        self.keys = keys[best]

    def mean(self) -> Tensor:
        return self.total / max(self.count, 1)


def _finite(matrix: Tensor, site: EditSite) -> Tensor:
    if not bool(torch.isfinite(matrix).all()):
        msg = (
            f"expected finite keys at layer {site.layer}, but the model yields NaN or infinity on ordinary text; "
            "check its weights and dtype."
        )
        raise InputError(msg)
    return matrix


def token_windows(tokenizer: Any, options: PreservedOptions) -> Iterator[Tensor]:
    """Rows of equally many tokens, ``[batch, window]``, ``options.tokens`` in all.

    Raises:
        InputError: If the corpus cannot be read or is shorter than one row.
    """
    size = min(options.window, options.tokens)
    rows = max(1, min(options.batch, options.tokens // size))
    left = options.tokens // size * size
    pending: list[int] = []
    for text in read_texts(options.corpus):
        pending += tokenizer(text, truncation=False)["input_ids"]
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
            f"expected at least {size} tokens of text in the corpus {options.corpus!r}, but it holds {len(pending)}; "
            "choose a longer one or lower preserved.window."
        )
        raise InputError(msg)


def _corpus_fingerprint(options: PreservedOptions) -> str:
    return text_fingerprint(
        options.corpus, text_stamp(options.corpus), options.tokens, options.window, options.sample, options.seed
    )


def _path(fingerprint: str, corpus: str, layer: int) -> Path:
    return cache_dir() / "statistics" / fingerprint / corpus / f"layer_{layer}.safetensors"


def _save(path: Path, statistics: LayerStatistics, identity: str) -> None:
    tensors = {
        "values": statistics.spectrum.values,
        "vectors": statistics.spectrum.vectors,
        "keys": statistics.keys,
    }
    with whole_file(path) as scratch:
        save_file(
            {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()},
            scratch,
            metadata={"identity": identity, "tokens": str(statistics.tokens)},
        )


def _load(path: Path, identity: str) -> LayerStatistics:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in ("values", "vectors", "keys")}
    except Exception as error:
        msg = f"expected statistics in {path}, but the file cannot be read ({error}); delete it and run again."
        raise InputError(msg) from error
    if metadata.get("identity") != identity:
        msg = f"the statistics in {path} belong to another model or corpus; delete the file and run again."
        raise InputError(msg)
    return LayerStatistics(Spectrum(tensors["values"], tensors["vectors"]), tensors["keys"], int(metadata["tokens"]))


_TOKENS = 16  # of text told with a key, its own token the last


@dataclass(frozen=True)
class Excerpts:
    """Sampled keys of preserved text.

    Attributes:
        keys: For each layer the same ``s`` tokens' keys, ``[d, s]``.
        texts: What stands in the corpus up to each token, the token itself last.
    """

    keys: list[Tensor]
    texts: list[str]


@torch.no_grad()
def collect_excerpts(
    decoder: Decoder, tokenizer: Any, sites: Sequence[EditSite], options: PreservedOptions, progress: Progress
) -> Excerpts:
    """Reads the corpus once and keeps a uniform sample of keys with their text.

    The tokens are those of the key sample that ``aeplus fit`` takes with the same options
    (:func:`~aeplus.preserved.statistics.collect`), so that s(k, K0) is the same here and there.

    Raises:
        InputError: If the corpus cannot be read, or is shorter than a window.
    """
    generator = torch.Generator().manual_seed(options.seed)
    device = decoder.device
    modules = [site.module for site in sites]
    draws, texts = torch.zeros(0), torch.zeros(0, _TOKENS, dtype=torch.long)
    keys = [torch.zeros(0, site.weight.shape[1], device=device) for site in sites]
    with progress.task("preserved text", options.tokens) as advance:
        for ids in token_windows(tokenizer, options):
            drawn = torch.cat([draws, torch.rand(ids.numel(), generator=generator)])
            draws, kept = drawn.topk(min(options.sample, len(drawn)))
            before = pad(ids, (_TOKENS - 1, 0), value=-1).unfold(1, _TOKENS, 1).flatten(0, 1)
            texts = torch.cat([texts, before])[kept]

            def receive(index: int, found: Tensor, kept: Tensor = kept) -> None:
                rows = found.flatten(0, 1).float()
                keys[index] = torch.cat([keys[index], rows])[kept.to(device)]

            with on_input(modules, receive, stop=True):
                decoder.backbone(input_ids=ids.to(device), use_cache=False)
            advance(ids.numel())
    told = tokenizer.batch_decode([[i for i in row if i >= 0] for row in texts.tolist()], skip_special_tokens=True)
    return Excerpts([k.T.contiguous() for k in keys], [" ".join(text.split()) for text in told])
