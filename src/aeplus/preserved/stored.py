"""Statistics of preserved knowledge in the cache of files; collected where they are not there."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional import Spectrum
from aeplus.models.decoder import Decoder
from aeplus.models.placing import free_bytes
from aeplus.models.sites import EditSite
from aeplus.models.tokens import token_ids
from aeplus.preserved.collection import Moment, collect_moments
from aeplus.preserved.facts import with_statements
from aeplus.preserved.statistics import Kept, LayerStatistics, PreservedOptions
from aeplus.utils.cache import load_tensors, save_tensors
from aeplus.utils.fingerprint import (
    config_fingerprint,
    tensors_digest,
    text_fingerprint,
    text_stamp,
    weights_fingerprint,
)
from aeplus.utils.paths import cache_dir, check_cache
from aeplus.utils.progress import Progress

_TOKENIZED = "A tokenizer is known by how it cuts 1 sentence: naïve, isn't it?"  # identifies a tokenizer in the cache

# Times C: what its decomposition takes beside it. Eigenvectors and LAPACK's workspace are 3; a first call on an H200,
# five layers of d = 14336, had a peak of 7.7 beside their sums.
_DECOMPOSED = 8


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

    The path of a cache file and its metadata contain fingerprints of the weights, and of the config, the corpus and
    which module of a layer it is, and the layer, so another model's statistics cannot be used by mistake.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        sites: The edited layers.
        options: The corpus, and how much of it to read.
        progress: Shows the tokens read.
        fingerprint: The weights' fingerprint, if it has been computed already.
        kept: Which eigenvectors are held; all by default. A file with all of them serves too, once: a file with
            these is then written.

    Returns:
        The statistics, each where its layer's weight is, which no later use moves.

    Raises:
        InputError: If the corpus or a cache file cannot be read, the cache not written, or the keys are not finite.
    """
    whole, identities = _places(decoder, tokenizer, sites, options, fingerprint or weights_fingerprint(decoder.model))
    parts = whole
    if kept is not None:
        parts = {layer: path.with_suffix(f".{kept.name}{path.suffix}") for layer, path in whole.items()}
    layers = decoder.ranks.first([layer for layer in whole if not (parts[layer].is_file() or whole[layer].is_file())])
    missing = [site for site in sites if site.layer in layers]

    moments: dict[int, Moment] = {}

    def save(share: Sequence[EditSite]) -> list[None]:
        own_moments = {site.layer: moments.pop(site.layer) for site in share}
        moments.clear()
        # One layer is written while the next one is decomposed.
        with ThreadPoolExecutor(1) as writer:
            writing: list[Future[None]] = []
            for site in share:
                statistics = own_moments.pop(site.layer).statistics()
                own = statistics if kept is None else kept.of(statistics)
                for written in writing:
                    written.result()
                writing = [writer.submit(_save, parts[site.layer], own, identities[site.layer])]
            for written in writing:
                written.result()
        return [None] * len(share)

    if missing:
        check_cache(whole[missing[0].layer].parent)
    while missing:
        at_once = min(decoder.ranks.gathered(layers_at_once(missing)))
        some, missing = missing[:at_once], missing[at_once:]
        collected = collect_moments(decoder, tokenizer, some, options, progress)
        moments.update((site.layer, moment) for site, moment in zip(some, collected, strict=True))
        del collected
        decoder.ranks.split(some, save, runs_model=False)
    found = []
    for site in sites:
        of_part = parts[site.layer].is_file()
        path = (parts if of_part else whole)[site.layer]
        statistics = _load(path, identities[site.layer], site.weight.device)
        if kept is not None and not of_part:
            statistics = kept.of(statistics)
            if decoder.ranks.leads:
                with suppress(InputError):  # a cache that cannot be written serves still
                    _save(parts[site.layer], statistics, identities[site.layer])
        found.append(statistics)
    return found


def load_with_statements(
    decoder: Decoder,
    tokenizer: Any,
    sites: Sequence[EditSite],
    options: PreservedOptions,
    progress: Progress,
    fingerprint: str | None,
    kept: Kept | None,
    keys: Sequence[Tensor],
    weight: float,
) -> list[LayerStatistics]:
    """What :func:`load_or_collect` gives, with statements; the cache holds those of the last statements of a layer.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        sites: The edited layers.
        options: As for :func:`load_or_collect`.
        progress: As there.
        fingerprint: As there.
        kept: Which eigenvectors are held of what is decomposed with the statements.
        keys: The statements' keys at each site, ``[d, s]``.
        weight: As for :func:`~aeplus.preserved.facts.with_statements`.

    Raises:
        InputError: As there.
    """
    fingerprint = fingerprint or weights_fingerprint(decoder.model)
    whole, identities = _places(decoder, tokenizer, sites, options, fingerprint)
    digests = decoder.ranks.first([text_fingerprint(tensors_digest({"keys": own}), weight) for own in keys])
    which = "" if kept is None else f".{kept.name}"
    files = [
        whole[site.layer].with_suffix(f".facts_{digest}{which}.safetensors")
        for site, digest in zip(sites, digests, strict=True)
    ]
    if decoder.ranks.first(all(file.is_file() for file in files)):
        return [_load(f, identities[site.layer], site.weight.device) for f, site in zip(files, sites, strict=True)]
    text = load_or_collect(decoder, tokenizer, sites, options, progress, fingerprint)
    found = with_statements(text, keys, weight)
    found = found if kept is None else [kept.of(statistics) for statistics in found]
    for file, site, digest, statistics in zip(files, sites, digests, found, strict=True):
        if decoder.ranks.leads:
            with suppress(InputError, OSError):  # a cache that cannot be written serves still
                for other in set(file.parent.glob(f"layer_{site.layer}.facts_*")):
                    if not other.name.startswith(f"layer_{site.layer}.facts_{digest}."):
                        other.unlink(missing_ok=True)
                _save(file, statistics, identities[site.layer])
    return found


def layers_at_once(sites: Sequence[EditSite], free: Callable[[torch.device], int] | None = None) -> int:
    """Of how many layers the second moments fit a GPU together, beside the decomposition of one; at least 1.

    Args:
        sites: The layers.
        free: Bytes that a device has left, to be asked instead of the device; a CPU is not asked by default.
    """
    devices = {site.weight.device for site in sites if free is not None or site.weight.device.type == "cuda"}
    room = min(map(free or free_bytes, devices), default=None)
    if room is None:
        return len(sites)
    each = max(8 * site.weight.shape[1] ** 2 for site in sites)
    return max(1, min(len(sites), room // each - _DECOMPOSED))


def _places(
    decoder: Decoder, tokenizer: Any, sites: Sequence[EditSite], options: PreservedOptions, fingerprint: str
) -> tuple[dict[int, Path], dict[int, str]]:
    """The file of each layer, and what its metadata must say."""
    read = _corpus_fingerprint(options), token_ids(tokenizer, _TOKENIZED), config_fingerprint(decoder.config)
    keys = {site.layer: text_fingerprint(*read, site.name.replace(f".{site.layer}.", ".{}.")) for site in sites}
    folder = cache_dir() / "statistics" / fingerprint
    files = {layer: folder / key / f"layer_{layer}.safetensors" for layer, key in keys.items()}
    return files, {layer: f"{fingerprint} {key} {layer}" for layer, key in keys.items()}


def _corpus_fingerprint(options: PreservedOptions) -> str:
    return text_fingerprint(
        options.corpus, text_stamp(options.corpus), options.tokens, options.window, options.sample, options.seed
    )


def _save(path: Path, statistics: LayerStatistics, identity: str) -> None:
    spectrum = statistics.spectrum
    tensors = {"values": spectrum.values.float(), "vectors": spectrum.vectors.float(), "keys": statistics.keys.float()}
    save_tensors(path, tensors, {"identity": identity, "tokens": str(statistics.tokens)})


def _load(path: Path, identity: str, device: torch.device) -> LayerStatistics:
    expected = "statistics of this model and corpus"
    tensors, metadata = load_tensors(path, ("values", "vectors", "keys"), {"identity": identity}, expected, device)
    return LayerStatistics(Spectrum(tensors["values"], tensors["vectors"]), tensors["keys"], int(metadata["tokens"]))
