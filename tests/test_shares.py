"""Two processes share work of any size, and each has the whole result: that of one process alone."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import distributed, multiprocessing

from aeplus.edits import EditRequest
from aeplus.evaluation.capabilities.likelihood import Prompt, option_likelihoods
from aeplus.functional import LowRankUpdate
from aeplus.methods.batch import Candidate
from aeplus.methods.measured import LayerEdit
from aeplus.models.decoder import Decoder
from aeplus.models.generate import generate
from aeplus.models.predict import collect_hidden, next_token_log_probs, predict, score_answers, score_variants
from aeplus.models.tokens import encode
from aeplus.models.variants import Variants
from aeplus.preserved.statistics import LayerStatistics, PreservedOptions
from aeplus.preserved.stored import load_or_collect
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import batch_rows
from aeplus.utils.progress import Progress
from aeplus.utils.ranks import Ranks
from tiny import tiny_model, tiny_tokenizer

CONTEXTS = ["", "You. "]
FACTS = [
    EditRequest("{} speaks", "France", "one two"),
    EditRequest("The capital of {} is", "Italy", "Rome"),
    EditRequest("{} likes the", "France", "London"),  # one key with the first
    EditRequest("In {}", "Paris the city", "one"),
]


def _rank(rank: int, folder: str, checks: Sequence[str]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        for name in checks:
            globals()[name](Ranks.of_group(), Path(folder))
    finally:
        distributed.destroy_process_group()


def exchanging(ranks: Ranks, folder: Path) -> None:
    for count in range(5):
        seen: list[int] = []

        def square(share: Sequence[int], seen: list[int] = seen) -> list[int]:
            seen += share
            return [number * number for number in share]

        assert ranks.split(range(count), square) == [number * number for number in range(count)]
        assert seen == list(range(ranks.number, count, 2))
    sharded = Ranks.of_group(sharded=True)
    assert sharded.split([1, 2, 3], lambda share: [(x, ranks.number) for x in share]) == [(1, 0), (2, 0), (3, 0)]
    assert sharded.split([5, 6], lambda share: [(x, ranks.number) for x in share], runs_model=False) == [(5, 0), (6, 1)]
    assert [(sharded.takes(part), ranks.takes(part)) for part in (0, 1)] == [
        (True, part == ranks.number) for part in (0, 1)
    ]
    assert (sharded.together(ranks.number), ranks.together(ranks.number)) == (0, ranks.number)
    assert float(sharded.summed(torch.ones(()))) == 1.0
    assert ranks.gathered(ranks.number) == [0, 1]
    assert ranks.first(ranks.number) == 0
    assert ranks.summed(torch.tensor([1.0, float(ranks.number)])).tolist() == [2.0, 1.0]
    for tensor in (torch.arange(6.0).view(2, 3).T, torch.tensor([[True, False]]), torch.zeros(0, 3)):
        own = tensor if ranks.leads else torch.zeros(1, dtype=tensor.dtype)
        assert torch.equal(ranks.first_tensor(own), tensor)
    update = LowRankUpdate(torch.randn(4, 2), torch.randn(2, 3), torch.rand(4, 3) > 0.5)
    edit = LayerEdit(update, torch.randn(3, 2), cast("Any", None))
    (agreed,) = Candidate(1, [edit]).agreed(ranks).layers
    dense = [torch.tensor(values) for values in ranks.gathered(agreed.update.dense().tolist())]
    assert torch.equal(dense[0], dense[1])
    assert not ranks.leads or torch.equal(agreed.update.dense(), update.dense())


def learning(ranks: Ranks, folder: Path) -> None:
    for kind, dtype in (("gpt2", torch.float64), ("llama", torch.float32)):
        model = tiny_model(kind, attention="eager").to(dtype)
        alone, shared = Decoder(model), Decoder(model, ranks=ranks)
        options = TargetOptions(steps=7, clamp=3.0)
        for requests, joint in ((FACTS, True), (FACTS[:3], False), (FACTS[:1], True)):
            rows = batch_rows(tiny_tokenizer(), requests, CONTEXTS)
            one = find_targets(alone, rows, 1, replace(options, joint=joint))
            two = find_targets(shared, rows, 1, replace(options, joint=joint))
            tolerance = 1e-9 if dtype == torch.float64 else 1e-5
            torch.testing.assert_close(two.values, one.values, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(two.initial, one.initial, rtol=tolerance, atol=tolerance)
            assert two.steps.tolist() == one.steps.tolist()
            assert two.converged.tolist() == one.converged.tolist()
            both = ranks.gathered(two.values.tolist())
            assert both[0] == both[1]


def asking(ranks: Ranks, folder: Path) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    alone, shared = Decoder(model), Decoder(model, ranks=ranks)
    texts = ["The capital of France is", "Rome", "People speak English in London", "Paris is"]
    for count in (1, 3, 4):
        rows = encode(tokenizer, texts[:count], ["Paris", "Italy", "one two", "Rome"][:count])
        bare = encode(tokenizer, texts[:count])
        assert predict(shared, rows) == predict(alone, rows)
        one, two = score_answers(alone, rows), score_answers(shared, rows)
        assert [score.predicted for score in two] == [score.predicted for score in one]
        assert [score.log_prob for score in two] == pytest.approx([score.log_prob for score in one], abs=1e-5)
        torch.testing.assert_close(next_token_log_probs(shared, bare), next_token_log_probs(alone, bare))
        states = [collect_hidden(decoder, tokenizer, texts[:count], -1) for decoder in (alone, shared)]
        torch.testing.assert_close(states[1], states[0])
        assert generate(shared, tokenizer, texts[:count], 5) == generate(alone, tokenizer, texts[:count], 5)
        torch.manual_seed(0)
        site = alone.sites[1]
        factors = [LowRankUpdate(torch.randn(32, 1), torch.randn(1, 64)) for _ in range(3)]
        variants = Variants([site], [[update] for update in factors])
        found = [score_variants(decoder, rows, variants) for decoder in (alone, shared)]
        assert [[score.predicted for score in own] for own in found[1]] == [
            [score.predicted for score in own] for own in found[0]
        ]
        prompts = [Prompt("", row.ids, ((5, 6), (7,)), False) for row in bare]
        torch.testing.assert_close(
            option_likelihoods(shared, prompts, "mean", 1024), option_likelihoods(alone, prompts, "mean", 1024)
        )


def collecting(ranks: Ranks, folder: Path) -> None:
    """Five batches of text for two, and one; files are written once."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    for tokens in (320, 64):
        options = PreservedOptions(corpus=str(folder / "text.txt"), tokens=tokens, window=32, sample=50, batch=2)
        found: list[list[LayerStatistics]] = []
        for name, own in ((f"alone_{tokens}_{ranks.number}", Ranks()), (f"shared_{tokens}", ranks)):
            os.environ["AEPLUS_CACHE"] = str(folder / name)
            decoder = Decoder(model, ranks=own)
            found.append(load_or_collect(decoder, tokenizer, decoder.select([0, 1, 2]), options, Progress()))
        for one, two in zip(*found, strict=True):
            assert torch.equal(one.keys, two.keys)
            assert one.tokens == two.tokens == tokens
            torch.testing.assert_close(two.spectrum.values, one.spectrum.values, rtol=1e-5, atol=1e-5)
            rebuilt = [s.vectors @ torch.diag(s.values) @ s.vectors.T for s in (one.spectrum, two.spectrum)]
            torch.testing.assert_close(rebuilt[1], rebuilt[0], rtol=1e-4, atol=1e-5)
        both = ranks.gathered([statistics.spectrum.vectors.tolist() for statistics in found[1]])
        assert both[0] == both[1]


def test_two_processes_share_work_of_any_size(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(["The capital of France is Paris and people speak French. "] * 60))
    checks = ("exchanging", "asking", "learning", "collecting")
    multiprocessing.spawn(_rank, (str(tmp_path), checks), nprocs=2)


def test_alone_nothing_is_exchanged() -> None:
    ranks, tensor = Ranks(), torch.ones(2)
    assert ranks.alone
    assert ranks.leads
    assert ranks.split([1, 2], lambda share: [2 * x for x in share]) == [2, 4]
    assert ranks.gathered("a") == ["a"]
    assert ranks.first("a") == "a"
    assert ranks.first_tensor(tensor) is ranks.summed(tensor) is tensor
    candidate = Candidate(0, [])
    assert candidate.agreed(ranks) is candidate
