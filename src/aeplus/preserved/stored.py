"""Statistics of preserved knowledge in the cache of files; collected where they are not there."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from aeplus.functional import Spectrum
from aeplus.models.decoder import Decoder
from aeplus.models.sites import EditSite
from aeplus.models.tokens import token_ids
from aeplus.preserved.collection import Moment, collect_moments
from aeplus.preserved.statistics import Kept, LayerStatistics, PreservedOptions
from aeplus.utils.cache import load_tensors, save_tensors
from aeplus.utils.fingerprint import config_fingerprint, text_fingerprint, text_stamp, weights_fingerprint
from aeplus.utils.paths import cache_dir, check_cache
from aeplus.utils.progress import Progress

_TOKENIZED = "A tokenizer is known by how it cuts 1 sentence: naïve, isn't it?"  # identifies a tokenizer in the cache


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
        kept: Which eigenvectors are held; all by default. A file with all of them serves too.

    Returns:
        The statistics, each where its layer's weight is, which no later use moves.

    Raises:
        InputError: If the corpus or a cache file cannot be read, the cache not written, or the keys are not finite.
    """
    fingerprint = fingerprint or weights_fingerprint(decoder.model)
    read = _corpus_fingerprint(options), token_ids(tokenizer, _TOKENIZED), config_fingerprint(decoder.config)
    keys = {site.layer: text_fingerprint(*read, site.name.replace(f".{site.layer}.", ".{}.")) for site in sites}
    folder = cache_dir() / "statistics" / fingerprint
    whole = {layer: folder / key / f"layer_{layer}.safetensors" for layer, key in keys.items()}
    identities = {layer: f"{fingerprint} {key} {layer}" for layer, key in keys.items()}
    parts = whole
    if kept is not None:
        parts = {layer: path.with_suffix(f".{kept.name}{path.suffix}") for layer, path in whole.items()}
    layers = decoder.ranks.first([layer for layer in whole if not (parts[layer].is_file() or whole[layer].is_file())])
    missing = [site for site in sites if site.layer in layers]

    def save(share: Sequence[tuple[EditSite, Moment]]) -> list[None]:
        # One layer is written while the next one is decomposed.
        with ThreadPoolExecutor(1) as writer:
            writing: list[Future[None]] = []
            for site, moment in share:
                statistics = moment.statistics()
                own = statistics if kept is None else kept.of(statistics)
                for written in writing:
                    written.result()
                writing = [writer.submit(_save, parts[site.layer], own, identities[site.layer])]
            for written in writing:
                written.result()
        return [None] * len(share)

    if missing:
        check_cache(folder)
        moments = collect_moments(decoder, tokenizer, missing, options, progress)
        decoder.ranks.split(list(zip(missing, moments, strict=True)), save, runs_model=False)
    found = []
    for site in sites:
        of_part = parts[site.layer].is_file()
        path = (parts if of_part else whole)[site.layer]
        statistics = _load(path, identities[site.layer], site.weight.device)
        found.append(statistics if of_part or kept is None else kept.of(statistics))
    return found


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
