"""``aeplus build-alphaset``, from its options to the files it writes."""

import argparse
import re
from dataclasses import asdict
from pathlib import Path

from aeplus.data.alphaset.answers import gather
from aeplus.data.alphaset.build import SetBuilder
from aeplus.data.alphaset.card import print_averages, records_digest, write_sets
from aeplus.data.alphaset.measure import Keys, Measurer
from aeplus.data.alphaset.sizes import Sizes
from aeplus.data.readers import read_requests
from aeplus.data.rewriter import load_on_device, named_rewriter
from aeplus.errors import InputError
from aeplus.knowledge.fingerprint import weights_fingerprint
from aeplus.knowledge.statistics import PreservedOptions, load_or_collect
from aeplus.models.sites import Decoder
from aeplus.progress import BarProgress
from aeplus.targets.optimizer import TargetOptions


def build(options: argparse.Namespace) -> int:
    """Reads, measures, writes and prints.

    Raises:
        InputError: If something cannot be used, or there is too little to make the sets of.
    """
    sizes = Sizes.parse(options.sizes) if options.sizes else Sizes.scaled(options.scale)
    if options.candidates is not None and options.candidates < 1:
        msg = f"expected at least 1 for --candidates, but {options.candidates} came; leave it out for the default."
        raise InputError(msg)
    targets = TargetOptions(steps=options.steps, learning_rate=options.learning_rate, clamp=options.clamp, contexts=0)
    layers, progress = _layers(options.layers), BarProgress()
    pool, facts = read_requests(options.edits), read_requests(options.k0)
    material = gather(pool, facts, options.seed)
    material.supply.check(sizes)  # told before the model is loaded
    model, tokenizer = load_on_device(options.model)
    decoder = Decoder(model)
    sites, fingerprint = decoder.select(layers), weights_fingerprint(model)
    own = None if options.rewriter_model else (model, tokenizer)
    rewriter = named_rewriter(options.rewriter, options.rewriter_model or options.model, options.seed, own)
    measurer = Measurer(decoder, tokenizer, sites, targets, progress)
    corpus: Keys | None = None
    builder = SetBuilder(material, measurer, rewriter, options.seed, options.candidates)
    if options.corpus is not None:
        window = min(PreservedOptions.window, decoder.context_length or PreservedOptions.window)
        preserved = PreservedOptions(corpus=options.corpus, tokens=options.corpus_tokens, window=window)
        corpus = [s.keys for s in load_or_collect(decoder, tokenizer, sites, preserved, progress, fingerprint)]
    sets = builder.build(sizes, corpus)
    settings = {
        "model": options.model,
        "weights": fingerprint,
        "layers": layers,
        "residual_layer": measurer.residual_layer,
        "seed": options.seed,
        "sizes": asdict(sizes),
        "edits": {"source": Path(options.edits).name, "records": len(pool), "digest": records_digest(pool)},
        "k0": {"source": Path(options.k0).name, "records": len(facts), "digest": records_digest(facts)},
        "corpus": None if options.corpus is None else {"source": options.corpus, "tokens": options.corpus_tokens},
        "residuals": {name: asdict(targets)[name] for name in ("steps", "learning_rate", "clamp")},
        "candidates": builder.measured,
        "rewriting": {**rewriter.settings, "counts": dict(sorted(rewriter.counts.items()))},
    }
    card = write_sets(sets, Path(options.out), settings)
    print_averages(card["averages"])
    print(f"{', '.join(f'{s.name}.jsonl ({len(s.records)} edits)' for s in sets)} and cards in {options.out}")
    return 0


def _layers(text: str) -> list[int]:
    words = [word for word in re.split(r"[\s,\[\]]+", text) if word]
    if not words or not all(word.isdecimal() for word in words):
        msg = f"expected layers behind --layers, but {text!r} came; write for example --layers 4,5,6,7,8."
        raise InputError(msg)
    return [int(word) for word in words]
