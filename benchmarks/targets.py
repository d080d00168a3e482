"""How much faster the batched target optimizer is than the plain one, and how closely their results agree.

    python benchmarks/targets.py --edits edits.jsonl

Both optimize the targets of the same edits, one after the other in one process; the plain one handles one edit at a
time with a full forward and backward pass at every step, as published code does.
"""

import argparse
import platform
import time
from dataclasses import replace

import torch

from aeplus.data.readers import read_requests
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_model
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import batch_rows, sample_contexts
from reference_targets import plain_targets


def main() -> None:
    """Times both and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--edits", required=True, help="a file of edits")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--layer", type=int, default=8)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--contexts", type=int, default=5, help="sampled contexts in addition to the bare prompt")
    parser.add_argument("--runs", type=int, default=3, help="runs of the batched optimizer")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    model, tokenizer = load_model(options.model, "float32")
    decoder = Decoder(model)
    requests = read_requests(options.edits, limit=options.count)
    contexts = sample_contexts(model, tokenizer, options.contexts, seed=options.seed)
    rows = batch_rows(tokenizer, requests, contexts)
    settings = TargetOptions(steps=options.steps)
    find_targets(decoder, rows, options.layer, replace(settings, steps=2))  # warm up

    times = []
    for _ in range(options.runs):
        began = time.perf_counter()
        result = find_targets(decoder, rows, options.layer, settings)
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    expected, steps = plain_targets(decoder, rows, options.layer, settings)
    plain = time.perf_counter() - began

    batched = sorted(times)[len(times) // 2]
    moved = (expected - result.initial).norm(dim=0)
    error = ((result.values - expected).norm(dim=0) / moved).max()
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, seed {options.seed}")
    print(f"{options.model}, layer {options.layer}, {len(requests)} edits, {len(contexts)} contexts")
    print(f"batched: {batched:.1f} s (median of {options.runs}: {', '.join(f'{t:.1f}' for t in sorted(times))})")
    print(f"plain:   {plain:.1f} s (1 run)")
    print(f"ratio:   {plain / batched:.2f}")
    print(f"steps taken equal: {result.steps.tolist() == steps.tolist()} {result.steps.tolist()}")
    print(f"largest relative difference of a target's shift: {float(error):.1e}")


if __name__ == "__main__":
    main()
