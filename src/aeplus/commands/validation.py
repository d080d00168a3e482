"""``aeplus build-validation``: its words and its help. Nothing heavy is imported before it runs."""

import argparse

HELP = """\
usage: aeplus build-validation --edits FILE --out FILE [--k0 FILE] [options]

Makes a validation set, which chooses among smoothing candidates: paraphrases of a share of the edits and of preserved
facts, never a test prompt. aeplus fit takes it with --data.validation FILE. A manifest beside it (FILE.manifest.json)
holds hashes of its prompts and of the test prompts that it was checked against; a run whose test prompts overlap with
the set, or whose manifest does not fit, is refused. docs/validation.md has more.

options:
  --edits FILE           the edits: a file or hub id in any format that aeplus fit reads
  --out FILE             where to write
  --k0 FILE              preserved facts, in the same formats (target_true, else target_new, is true); without it,
                         beginnings of sentences of --corpus, with the unedited model's continuation
  --corpus NAME          text for those: wiki-sample, a file or a data set (default: wiki-sample)
  --share NUMBER         share of the edited facts to paraphrase (default: 0.1)
  --preserved NUMBER     how many preserved facts to paraphrase at most (default: 200)
  --portion I/N          of N portions without a common fact, the I-th, for one of several experiments (default: 1/1)
  --rewriter NAME        templates, or lm for a language model whose output is checked (default: templates)
  --rewriter-model NAME  the language model that rewrites: hub id, folder, .gguf file or smollm2-135m
  --seed NUMBER          seed of every choice (default: 0)

example:
  aeplus build-validation --edits edits.jsonl --k0 facts.jsonl --out validation.jsonl --portion 1/3
  aeplus fit --config configs/model/gpt2-xl.yaml --data.path edits.jsonl --data.validation validation.jsonl
"""


def run(words: list[str]) -> int:
    """Builds a validation set.

    Args:
        words: The words behind ``aeplus build-validation``.
    """
    parser = argparse.ArgumentParser("aeplus build-validation", add_help=False, allow_abbrev=False)
    for name in ("--edits", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--k0")
    parser.add_argument("--corpus", default="wiki-sample")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--preserved", type=int, default=200)
    parser.add_argument("--portion", default="1/1")
    parser.add_argument("--rewriter", choices=("templates", "lm"), default="templates")
    parser.add_argument("--rewriter-model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    from pathlib import Path

    from aeplus.data.manifest import write_validation
    from aeplus.data.paraphrase import named_rewriter
    from aeplus.data.readers import read_requests
    from aeplus.data.validation import compose_validation, preserved_snippets
    from aeplus.preserved.corpus import read_texts
    from aeplus.utils.progress import BarProgress

    portion = _portion(options.portion)
    requests = read_requests(options.edits)
    facts = read_requests(options.k0) if options.k0 else []
    rewriter = named_rewriter(options.rewriter, options.rewriter_model, options.seed)
    count = options.preserved
    snippets = [] if options.k0 else preserved_snippets(read_texts(options.corpus), count * portion[1], options.seed)
    validation = compose_validation(
        requests,
        facts,
        rewriter,
        options.share,
        count,
        portion,
        snippets,
        seed=options.seed,
        progress=BarProgress(),
    )
    settings = {
        "edits": Path(options.edits).name,
        "k0": Path(options.k0).name if options.k0 else None,
        "corpus": None if options.k0 else options.corpus,
        **{name: getattr(options, name) for name in ("share", "preserved", "portion", "seed")},
        "rewriting": {**rewriter.settings, "counts": dict(sorted(rewriter.counts.items()))},
    }
    manifest = write_validation(Path(options.out), validation, requests, settings)
    print(
        f"{options.out}: {len(validation.firsts)} of {len(requests)} edits and {len(validation.preserved)} preserved "
        f"facts in {len(manifest.prompts)} prompts, none of them among {len(manifest.tests)} test prompts"
    )
    return 0


def _portion(text: str) -> tuple[int, int]:
    from aeplus.errors import InputError

    number, _, portions = text.partition("/")
    if not (number.isdecimal() and portions.isdecimal() and 1 <= int(number) <= int(portions)):
        msg = f"expected a portion such as 1/3, with the first number not above the second, but {text!r} came; fix it."
        raise InputError(msg)
    return int(number), int(portions)
