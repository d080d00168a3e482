"""``aeplus build-stream``: reads a pool, draws a stream and writes it."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from aeplus.commands.options import parse_layers, split_list
from aeplus.commands.stream.kinds import Draw, build_stream
from aeplus.commands.stream.pool import TESTS, make_pool
from aeplus.data.formats.plain import as_record
from aeplus.data.readers import read_requests
from aeplus.edits import EditRequest
from aeplus.errors import InputError, require_count
from aeplus.utils.jsonl import write_jsonl
from aeplus.utils.paths import check_output, expanded
from aeplus.utils.progress import BarProgress


def run(options: Namespace) -> int:
    """Draws a stream of edits.

    Args:
        options: See :func:`~aeplus.commands.stream.arguments.stream_parser`.

    Raises:
        InputError: If something cannot be used, or the pool is too small.
    """
    tests = split_list(" ".join(options.tests))
    if not tests or (unknown := [way for way in tests if way not in TESTS]):
        msg = f"expected --tests out of {', '.join(TESTS)}, got {', '.join(unknown) if tests else 'none'}; correct it."
        raise InputError(msg)
    require_count(options.count, "--count", 1)
    require_count(options.batch_size, "--batch-size", 1)
    if options.candidates is not None:
        require_count(options.candidates, "--candidates", 1)
    if not 0 <= options.share <= 1:
        msg = f"expected --share from 0 to 1, got {options.share}; choose for example 0.5, half of the facts."
        raise InputError(msg)
    out = expanded(options.out)
    facts_out = expanded(options.facts_out) if options.facts_out else facts_path(out)
    inputs = [options.path]
    check_output(out, "--out", inputs, options.overwrite)
    if options.kind == "preserved":
        check_output(facts_out, "--facts-out", [*inputs, out], options.overwrite)
    layers = parse_layers(options.layers, "--layers")
    pool = make_pool(read_requests(options.path), options.split)

    def residuals(edits: Sequence[EditRequest]) -> Sequence[float]:
        return measured_residuals(options, layers, edits)

    draw = Draw(options.count, options.seed, tests, options.share, options.batch_size, options.candidates, residuals)
    stream = build_stream(options.kind, pool, draw)
    write_jsonl(out, map(as_record, stream.edits), overwrite=options.overwrite)
    print(f"{len(stream.edits)} edits ({options.kind}, seed {options.seed}, split {options.split}) in {out}")
    if stream.facts:
        write_jsonl(facts_out, map(as_record, stream.facts), overwrite=options.overwrite)
        print(f"{len(stream.facts)} facts of their subjects in {facts_out}, for model.preserved.facts")
    return 0


def facts_path(out: Path) -> Path:
    """Where the facts of a stream are written unless the command says: ``stream.facts.jsonl`` for ``stream.jsonl``."""
    return out.with_name(f"{out.stem}.facts{out.suffix or '.jsonl'}")


def measured_residuals(options: Namespace, layers: list[int], edits: Sequence[EditRequest]) -> list[float]:
    """‖r‖ of some edits on the model that the options name."""
    from aeplus.commands.stream_keys import Measurer
    from aeplus.models.decoder import Decoder
    from aeplus.models.loading import load_on_device
    from aeplus.targets.optimizer import TargetOptions

    targets = TargetOptions(steps=options.steps, learning_rate=options.learning_rate, clamp=options.clamp, contexts=0)
    model, tokenizer = load_on_device(options.model)
    decoder = Decoder(model)
    measurer = Measurer(decoder, tokenizer, decoder.select(layers), targets, BarProgress())
    return measurer.residuals(edits, "candidates")
