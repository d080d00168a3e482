"""One target for all edits of a batch that have one key, against the plain optimizer on all their rows."""

import warnings
from dataclasses import replace

import pytest
import torch

import aeplus
from aeplus.edits import EditRequest
from aeplus.models.decoder import Decoder
from aeplus.models.predict import score_answers
from aeplus.models.tokens import encode
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import BatchRows, batch_rows
from reference_targets import plain_targets
from small import LEARNING
from tiny import tiny_model, tiny_tokenizer

CONTEXTS = ["", "You. "]
OPTIONS = TargetOptions(steps=7, learning_rate=0.5, clamp=3.0)
FACTS = [
    EditRequest("{} speaks", "France", "one two"),
    EditRequest("The capital of {} is", "Italy", "Rome"),
    EditRequest("{} likes the", "France", "London"),
    EditRequest("{} is in", "France", "Paris"),
]


def rows_of(requests: list[EditRequest]) -> BatchRows:
    return batch_rows(tiny_tokenizer(), requests, CONTEXTS)


def merged(rows: BatchRows, edits: list[int]) -> BatchRows:
    """All rows of some edits as those of one."""
    prompts = [row for i in edits for row in rows.prompts[i * rows.contexts :][: rows.contexts]]
    return BatchRows(prompts, [rows.essence[edits[0]]], rows.contexts * len(edits))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_joint_target_is_that_of_one_edit_with_all_the_rows(kind: str) -> None:
    decoder, rows = Decoder(tiny_model(kind, attention="eager")), rows_of(FACTS)
    assert rows.groups == [0, 1, 0, 0]
    assert rows.shared_keys == [[0, 2, 3]]
    found = find_targets(decoder, rows, 1, OPTIONS)
    together, steps = plain_targets(decoder, merged(rows, [0, 2, 3]), 1, OPTIONS)
    alone, _ = plain_targets(decoder, merged(rows, [1]), 1, OPTIONS)
    expected = torch.stack([together[:, 0], alone[:, 0], together[:, 0], together[:, 0]], 1)
    assert (found.values - expected).norm() / (expected - found.initial).norm() < 2e-5
    assert found.steps[0] == steps[0]
    apart = find_targets(decoder, rows, 1, replace(OPTIONS, joint=False))
    each, _ = plain_targets(decoder, rows, 1, OPTIONS)
    assert (apart.values - each).norm() / (each - apart.initial).norm() < 2e-5


def test_a_fact_that_a_later_one_of_the_batch_supersedes_does_not_count() -> None:
    decoder = Decoder(tiny_model("llama"))
    again = EditRequest("{} speaks", "France", "Italy")
    rows = rows_of([*FACTS, again])
    assert rows.superseded == {0}
    found = find_targets(decoder, rows, 1, OPTIONS)
    expected, _ = plain_targets(decoder, merged(rows, [2, 3, 4]), 1, OPTIONS)
    for edit in (0, 2, 3, 4):
        assert (found.values[:, edit] - expected[:, 0]).norm() / (expected - found.initial[:, :1]).norm() < 2e-5


def test_other_prompts_before_the_subject_are_other_keys() -> None:
    rows = rows_of([FACTS[0], EditRequest("In {} is", "France", "Rome"), EditRequest("{} is", "Italy", "Rome")])
    assert rows.shared_keys == []


def test_several_facts_of_one_subject_are_learned_together_and_named() -> None:
    facts = [("{}", "London"), ("{} is", "Paris"), ("{} of", "Italy")]
    edits = [{"prompt": prompt, "subject": "Spain", "target_new": target} for prompt, target in facts]
    reached = {}
    for joint, said in ((True, "get one joint target"), (False, "get targets that one update cannot all reach")):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options = {**LEARNING, "contexts": 0, "steps": 40, "joint": joint}
            model = tiny_model("llama")
            aeplus.edit(model, tiny_tokenizer(), edits, "alphaedit", **options)
        asked = encode(
            tiny_tokenizer(), [f"{prompt.replace('{}', 'Spain')}" for prompt, _ in facts], [t for _, t in facts]
        )
        reached[joint] = sum(score.log_prob for score in score_answers(Decoder(model), asked)) / len(facts)
        named = f"edits 1, 2, 3 have one key ('Spain', in one batch) and {said}"
        assert named in [str(warning.message) for warning in caught]
    assert reached[True] > reached[False] + 0.1
