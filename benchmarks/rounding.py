"""How many edits are lost when half-precision weights round updates away.

    python benchmarks/rounding.py --edits counterfact.jsonl --limit 50

The unedited weights are rounded to the dtype. Then the edits are made twice: with the edited layers kept in float32
(``model.edited_dtype: float32``), and with them rounded to the dtype after every batch, as ``same`` does. Arithmetic is
float32 in both cases, so that only the rounding of the update differs (and the benchmark runs on processors without
fast half-precision products).
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from aeplus.data.datamodule import EditDataModule
from aeplus.methods.compositions import named_method
from aeplus.metrics.success import Score
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_model
from aeplus.models.sites import EditSite, Snapshot
from aeplus.preserved.statistics import PreservedOptions
from aeplus.run.batches import BatchCommit
from aeplus.run.session import EditSession
from aeplus.targets.cache import TargetCache
from aeplus.targets.optimizer import TargetOptions
from aeplus.utils.paths import cache_dir
from aeplus.utils.progress import BarProgress

LAYERS = [4, 5, 6, 7, 8]


class Rounding:
    """Rounds the edited weights after every batch, and records which part of the updates is lost."""

    def __init__(self, dtype: torch.dtype, before: Snapshot) -> None:
        self.dtype, self.before = dtype, before
        self.lost: list[float] = []
        self.unmoved: list[float] = []

    @torch.no_grad()
    def after(self, sites: list[EditSite], commit: BatchCommit) -> None:
        """Rounds the weights after a batch."""
        for site, edit, start in zip(sites, commit.candidate.layers, self.before.weights, strict=True):
            rounded = site.weight.to(self.dtype).to(site.weight.dtype)
            self.lost.append(float((rounded - site.weight).norm() / edit.update.dense().norm()))
            self.unmoved.append(float((rounded == start).float().mean()))
            site.weight.copy_(rounded)
            start.copy_(rounded)


def run(model: Any, tokenizer: Any, options: argparse.Namespace, rounding: Rounding | None = None) -> Score:
    """Edits, measures and restores the weights."""
    numbers = {"ridge": 1.0, "prior_strength": 1.0, "smoothing_steps": 2, "alpha": options.alpha}
    session = EditSession(
        model,
        tokenizer,
        LAYERS,
        named_method(options.method, **numbers),
        TargetOptions(contexts=options.contexts, precision=options.precision),
        PreservedOptions(tokens=50_000),
        name="smollm2-135m",
        progress=BarProgress(),
        target_cache=TargetCache(cache_dir() / "targets"),
    )
    data = EditDataModule(str(options.edits), batch_size=options.batch, limit=options.limit, neighbors=5)
    data.setup("fit")
    with Snapshot(session.sites):
        session.prepare(data)
        while not data.exhausted:
            session.begin()
            done = False
            while not done:
                session.candidate()
                done = session.settle(session.validate(data.validation_items())["score"])
            commit = session.commit()
            print(f"{data.cursor} of {len(data.requests)} edits")
            if rounding is not None:
                rounding.after(session.sites, commit)
        return session.measuring.score(data.requests)


def main() -> None:
    """Prints a line per variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", required=True, type=Path)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--contexts", type=int, default=5)
    parser.add_argument(
        "--precision",
        choices=["full", "bfloat16"],
        default="full",
        help="of the layers above, while targets are optimized",
    )
    parser.add_argument("--method", default="alphaedit")
    parser.add_argument("--alpha", type=float, default=1000.0)
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    model, tokenizer = load_model("smollm2-135m", "float32")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    kept = run(model, tokenizer, options)
    rounding = Rounding(dtype, Snapshot(Decoder(model).select(LAYERS)))
    rounded = run(model, tokenizer, options, rounding)
    print(f"{options.limit} edits, batches of {options.batch}, {options.method}, {options.dtype} weights, seed 0")
    for name, score in (("edited layers in float32", kept), ("edited layers rounded", rounded)):
        print(f"{name}: " + ", ".join(f"{k} {v:.1f}" for k, v in score.summary().items() if v is not None))
    held, left = (torch.cat(score.efficacy.values) > 0 for score in (kept, rounded))
    lost = int((held & ~left).sum())
    print(
        f"edits that hold in float32: {int(held.sum())}; lost to rounding: {lost}; gained: {int((left & ~held).sum())}"
    )
    error, unmoved = sum(rounding.lost) / len(rounding.lost), sum(rounding.unmoved) / len(rounding.unmoved)
    print(f"rounding error against update: {error:.2f}; entries that do not change: {unmoved:.2f} (mean)")


if __name__ == "__main__":
    main()
