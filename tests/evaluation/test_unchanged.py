"""The share of answer tokens that editing leaves as they were, beside the model's own logits."""

from typing import Any

import pytest
import torch

from aeplus.data.formats import knowedit
from aeplus.edits import EditRequest, Probe
from aeplus.evaluation.suite import Suite, SuiteOptions
from aeplus.evaluation.unchanged import unchanged_items
from aeplus.models.decoder import Decoder
from aeplus.models.tokens import encode
from tiny import tiny_model, tiny_tokenizer

STREAM = [
    EditRequest(
        *("{} is", "Rome", "Italy"),
        neighborhood=(Probe("Oslo is", "Paris in Italy"), Probe("Lyon is"), Probe("Spain is"), Probe("dropped")),
        axes=(Probe("Lyon is", "in France", ("London",), "locality/near"), Probe("Madrid is", "Rome", axis="far")),
    )
]
DROPPED = frozenset({"dropped"})


def first_choices(model: Any, tokenizer: Any, prompt: str, answer: str | None) -> list[int]:
    """The model's first choice for each of an answer's tokens, or for the next one."""
    row = encode(tokenizer, [prompt], [answer] if answer else None)[0]
    best = model(torch.tensor([row.ids])).logits[0].argmax(-1).tolist()
    return best[row.answer - 1 : -1] if answer else best[-1:]


@pytest.mark.parametrize("seed", range(4))
def test_tokens_that_are_as_before(seed: int) -> None:
    model, tokenizer = tiny_model("llama", num_hidden_layers=2), tiny_tokenizer()
    decoder = Decoder(model)
    prompts = [("Oslo is", "Paris in Italy"), ("Lyon is", "in France"), ("Spain is", None)]
    before = [first_choices(model, tokenizer, *prompt) for prompt in prompts]
    assert [len(tokens) > 1 for tokens in before] == [True, True, False]
    options = SuiteOptions(("unchanged",), bootstrap_samples=10, records=True)
    suite = Suite(decoder, tokenizer, STREAM, DROPPED, options)
    whole = {"value": 100.0, "low": 100.0, "high": 100.0}
    assert suite.measure()["unchanged"] == {
        "locality/near": {**whole, "count": 1},
        "specificity": {**whole, "count": 3},
    }

    torch.manual_seed(seed)
    weight = decoder.sites[0].weight
    weight.add_(torch.randn(weight.shape) * weight.std())
    after = [first_choices(model, tokenizer, *prompt) for prompt in prompts]
    pairs = [list(zip(was, now, strict=True)) for was, now in zip(before, after, strict=True)]
    kept = [sum(a == b for a, b in pair) / len(pair) for pair in pairs]
    found = suite.measure()["unchanged"]
    assert found["specificity"]["value"] == pytest.approx(100 * sum(kept) / 3, abs=1e-4)
    assert found["locality/near"]["value"] == pytest.approx(100 * kept[1], abs=1e-4)
    own = [prompt.found["unchanged"] for prompt in suite.prompts if prompt.item.aspect == "unchanged/specificity"]
    assert own == pytest.approx(kept, abs=1e-6)


def test_superseded_edits_and_the_first_edits() -> None:
    decoder, tokenizer = Decoder(tiny_model("llama", num_hidden_layers=2)), tiny_tokenizer()
    stream = [*STREAM, EditRequest("{} is", "Rome", "Spain", neighborhood=(Probe("London is", "small"),))]
    suite = Suite(decoder, tokenizer, stream, DROPPED, SuiteOptions(("strict", "unchanged")))
    found = suite.measure()
    assert list(found) == ["edits", "strict", "unchanged"]
    assert {name: part["count"] for name, part in found["unchanged"].items()} == {"specificity": 1}
    assert suite.measure(edited=1)["unchanged"]["specificity"]["count"] == 3


def test_knowedits_locality_is_asked_over_its_ground_truth() -> None:
    record = {
        "prompt": "The mother of Ann is",
        "subject": "Ann",
        "target_new": "Eve",
        "locality": {
            "Relation_Specificity": [{"prompt": "The father of Ann is", "ground_truth": [["Bob Hall", "Bob"]]}]
        },
        "portability": {"Reasoning": [{"prompt": "The aunt of Ann is", "ground_truth": "Eva"}]},
    }
    (edit,) = knowedit.parse(record, "answers")
    assert [(item.aspect, item.prompt, item.answer, item.aliases) for item in unchanged_items([edit])] == [
        ("specificity", "The father of Ann is", "Bob Hall", ()),
        ("locality/Relation_Specificity", "The father of Ann is", "Bob Hall", ()),
    ]
