"""``aeplus build-alphaset``: reads, measures, writes and prints."""

import argparse
import re
from dataclasses import asdict
from pathlib import Path

from aeplus.commands.alphaset.answers import Sizes, gather
from aeplus.commands.alphaset.build import SetBuilder
from aeplus.commands.alphaset.card import print_averages, records_digest, write_sets
from aeplus.commands.alphaset.measure import Keys, Measurer
from aeplus.data.paraphrase import named_rewriter
from aeplus.data.readers import read_requests
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_on_device
from aeplus.preserved.statistics import PreservedOptions, load_or_collect
from aeplus.targets.optimizer import TargetOptions
from aeplus.utils.fingerprint import weights_fingerprint
from aeplus.utils.progress import BarProgress

HELP = """\
usage: aeplus build-alphaset --edits FILE --k0 FILE --model NAME --layers LIST --out FOLDER [options]

Makes AlphaSet for a model: three files of edits, each with one kind of conflict, chosen by measuring the model.
alphaset1.jsonl holds K0 facts in other words with another answer (the largest s(k, K0)), alphaset2.jsonl edits and
later the same facts in other words with another answer (s(k, Kp)), alphaset3.jsonl the edits with the largest residual
at the third edited layer (|r|); the rest of each is fill, other edits that no two sets share. A card (JSON) beside
each holds the averages and histograms of the three quantities. The same seed makes the same files; docs/alphaset.md
has more.

options:
  --edits FILE           the pool of edits: a file or hub id in any format that aeplus fit reads
  --k0 FILE              facts as the model knows them, in the same formats (target_true, else target_new, is true)
  --model NAME           hub id, folder, .gguf file or smollm2-135m
  --layers LIST          the layers that will be edited, such as 4,5,6,7,8
  --out FOLDER           where to write
  --scale NUMBER         sizes as a multiple of the paper's, 200+800, 200+800 and 300+1200 (default: 1)
  --sizes LIST           the sizes themselves, conflict + fill of each set, such as 20+80,20+80,30+120
  --candidates NUMBER    how many edits of the pool to measure, the slow part (default: 1.5 times what is taken)
  --steps NUMBER         most gradient steps of a residual's target (default: 25; 5 rank much alike and cost a fifth)
  --learning-rate NUMBER of those steps (default: 0.5); take model.targets.learning_rate of the model's config
  --clamp NUMBER         longest residual, as a share of the hidden state's norm (default: 0.75)
  --corpus NAME          also measure s(k, K0) against keys of this text: wiki-sample, a file or a data set
  --corpus-tokens NUMBER how much of it (default: 50000)
  --rewriter NAME        templates, or lm for a language model whose output is checked (default: templates)
  --rewriter-model NAME  the language model that rewrites (default: the model)
  --seed NUMBER          seed of every choice (default: 0)

example:
  aeplus build-alphaset --edits counterfact.json --k0 facts.jsonl --model smollm2-135m --layers 4,5,6,7,8 \\
      --scale 0.05 --out alphaset
"""


def run(words: list[str]) -> int:
    """Builds AlphaSet for a model.

    Args:
        words: The words behind ``aeplus build-alphaset``.
    """
    parser = argparse.ArgumentParser("aeplus build-alphaset", add_help=False, allow_abbrev=False)
    for name in ("--edits", "--k0", "--model", "--layers", "--out"):
        parser.add_argument(name, required=True)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, default=1.0)
    size.add_argument("--sizes")
    parser.add_argument("--candidates", type=int)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--learning-rate", type=float, default=0.5)
    parser.add_argument("--clamp", type=float, default=0.75)
    parser.add_argument("--corpus")
    parser.add_argument("--corpus-tokens", type=int, default=50_000)
    parser.add_argument("--rewriter", choices=("templates", "lm"), default="templates")
    parser.add_argument("--rewriter-model")
    parser.add_argument("--seed", type=int, default=0)

    return build(parser.parse_args(words))


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
