"""``aeplus build-validation``: builds a validation set and its manifest."""

from argparse import Namespace
from pathlib import Path

from aeplus.commands.rewriting import named_rewriter
from aeplus.data.manifest import manifest_path, write_validation
from aeplus.data.readers import read_requests
from aeplus.data.validation import compose_validation, preserved_snippets
from aeplus.errors import InputError
from aeplus.preserved.corpus import read_texts
from aeplus.utils.paths import check_output, expanded
from aeplus.utils.progress import BarProgress


def run(options: Namespace) -> int:
    """Builds a validation set.

    Args:
        options: See :func:`~aeplus.commands.arguments.validation_parser`.

    Raises:
        InputError: If something cannot be read or used.
    """
    portion = _portion(options.portion)
    out = expanded(options.out)
    for path in (out, manifest_path(out)):
        check_output(path, "--out", (options.edits, options.k0, options.corpus), options.overwrite)
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
    manifest = write_validation(out, validation, requests, settings, options.overwrite)
    print(
        f"{options.out}: {len(validation.firsts)} of {len(requests)} edits and {len(validation.preserved)} preserved "
        f"facts in {len(manifest.prompts)} prompts, none of them among {len(manifest.tests)} test prompts"
    )
    return 0


def _portion(text: str) -> tuple[int, int]:
    number, _, portions = text.partition("/")
    if not (number.isdecimal() and portions.isdecimal() and 1 <= int(number) <= int(portions)):
        msg = f"expected a portion I/N with I from 1 to N, got {text!r}; write for example 1/3."
        raise InputError(msg)
    return int(number), int(portions)
