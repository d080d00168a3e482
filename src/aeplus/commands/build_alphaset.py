"""``aeplus build-alphaset``: its words and its help. Nothing heavy is imported before it runs."""

import argparse

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
    from aeplus.data.alphaset.command import build

    return build(parser.parse_args(words))
