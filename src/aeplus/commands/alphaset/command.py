"""``aeplus build-alphaset``: reads, measures, writes and prints."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import torch

from aeplus.commands.alphaset.answers import Sizes, gather
from aeplus.commands.alphaset.build import SetBuilder
from aeplus.commands.alphaset.card import K0_FILE, SET_FILES, print_averages, records_digest, write_sets
from aeplus.commands.alphaset.measure import Space
from aeplus.commands.alphaset.sentences import CORPUS, answer_kind, known_facts
from aeplus.commands.options import parse_layers
from aeplus.commands.rewriting import named_rewriter
from aeplus.commands.stream_keys import Measurer
from aeplus.data.readers import read_requests
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_on_device
from aeplus.preserved.corpus import WIKI_SAMPLE, read_texts
from aeplus.preserved.statistics import PreservedOptions
from aeplus.preserved.stored import load_or_collect
from aeplus.targets.optimizer import TargetOptions
from aeplus.utils.fingerprint import weights_fingerprint
from aeplus.utils.paths import check_output, expanded
from aeplus.utils.progress import BarProgress


def run(options: Namespace) -> int:
    """Builds AlphaSet for a model.

    Args:
        options: See :func:`~aeplus.commands.alphaset.arguments.alphaset_parser`.

    Raises:
        InputError: If something cannot be used, or there is too little material.
    """
    sizes = Sizes.parse(options.sizes) if options.sizes else Sizes.scaled(options.scale)
    if options.candidates is not None and options.candidates < 1:
        msg = f"expected --candidates to be at least 1, got {options.candidates}; leave it out for the default."
        raise InputError(msg)
    targets = TargetOptions(steps=options.steps, learning_rate=options.learning_rate, clamp=options.clamp, contexts=0)
    for name, value in (
        ("--facts-weight", options.facts_weight),
        ("--threshold", options.threshold),
        ("--k0-count", options.k0_count),
    ):
        if value is not None and value <= 0:
            msg = f"expected {name} above 0, got {value}; choose another number."
            raise InputError(msg)
    layers, progress = parse_layers(options.layers, "--layers"), BarProgress()
    drawn = options.k0 == CORPUS
    inputs = (options.edits, None if drawn else options.k0, options.corpus)
    for name in SET_FILES:
        check_output(expanded(options.out) / name, "--out", inputs)
    pool = read_requests(options.edits)
    facts = [] if drawn else read_requests(options.k0)
    if not drawn:
        gather(pool, facts, options.seed).supply.check(sizes)  # reported before the model is loaded
    model, tokenizer = load_on_device(options.model)
    decoder = Decoder(model)
    if drawn:
        count = 4 * sizes.conflict[0] if options.k0_count is None else options.k0_count
        texts = read_texts(options.corpus or WIKI_SAMPLE)
        facts = known_facts(decoder, tokenizer, texts, count, options.seed)
    material = gather(pool, facts, options.seed, answer_kind if drawn else None)
    material.supply.check(sizes)
    sites, fingerprint = decoder.select(layers), weights_fingerprint(model)
    own = None if options.rewriter_model else (model, tokenizer)
    rewriter = named_rewriter(options.rewriter, options.rewriter_model or options.model, options.seed, own)
    measurer = Measurer(decoder, tokenizer, sites, targets, progress)
    space: Space | None = None
    builder = SetBuilder(material, measurer, rewriter, options.seed, options.candidates)
    if options.corpus is not None:
        window = min(PreservedOptions.window, decoder.context_length or PreservedOptions.window)
        preserved = PreservedOptions(corpus=options.corpus, tokens=options.corpus_tokens, window=window)
        statistics = load_or_collect(decoder, tokenizer, sites, preserved, progress, fingerprint)
        space = Space([s.to(torch.device("cpu"), torch.float32) for s in statistics], *_space_numbers(options))
    sets = builder.build(sizes, space)
    settings = {
        "model": options.model,
        "weights": fingerprint,
        "layers": layers,
        "residual_layer": measurer.residual_layer,
        "seed": options.seed,
        "sizes": asdict(sizes),
        "edits": {"source": Path(options.edits).name, "records": len(pool), "digest": records_digest(pool)},
        "k0": {
            "source": CORPUS if drawn else Path(options.k0).name,
            "records": len(facts),
            "digest": records_digest(facts),
        },
        "corpus": None
        if space is None
        else {
            "source": options.corpus,
            "tokens": options.corpus_tokens,
            "facts_weight": space.weight,
            "threshold": space.threshold,
        },
        "residuals": {name: asdict(targets)[name] for name in ("steps", "learning_rate", "clamp")},
        "candidates": builder.measured,
        "rewriting": {**rewriter.settings, "counts": dict(sorted(rewriter.counts.items()))},
    }
    card = write_sets(sets, material.facts, expanded(options.out), settings)
    print_averages(card["averages"])
    print(f"{', '.join(f'{s.name}.jsonl ({len(s.records)} edits)' for s in sets)} and cards in {options.out}")
    print(f"{len(material.facts)} K0 facts in {expanded(options.out) / K0_FILE}, for model.preserved.facts")
    return 0


def _space_numbers(options: Namespace) -> tuple[float, float]:
    """Weight of the facts in C, and τ."""
    return options.facts_weight, options.threshold
