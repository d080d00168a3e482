"""What is kept prompt by prompt: beside the model's own logits, and beside the metrics of the same measurement."""

import json
from typing import Any

import pytest
import torch

from aeplus.edits import EditRequest, Probe
from aeplus.evaluation.records import record_lines
from aeplus.evaluation.suite import Suite, SuiteOptions
from aeplus.metrics.text import weighted_entropy
from aeplus.models.decoder import Decoder
from aeplus.models.generate import generate
from tiny import tiny_model, tiny_tokenizer

STREAM = [
    EditRequest("{} is", "Rome", "Italy", rephrase=("Rome was",)),  # superseded
    EditRequest(
        *("{} is", "Rome", "Paris in Italy"),
        aliases=("London",),
        rephrase=("In Rome",),
        neighborhood=(Probe("Oslo is", "small"), Probe("Lyon is")),
        axes=(Probe("Spain is", "Rome", axis="reasoning"),),
        generation=("The city of Rome",),
        target_true="small",
        id="second",
    ),
]


def asked(model: Any, tokenizer: Any, prompt: str, answer: str) -> tuple[list[bool], float]:
    """Which tokens of an answer are the model's first choice, and their mean log-probability."""
    ids = tokenizer(f"{prompt} {answer}")["input_ids"]
    first = len(tokenizer(prompt)["input_ids"])
    logits = model(torch.tensor([ids])).logits[0, first - 1 : -1]
    expected = torch.tensor(ids[first:])
    chosen = logits.log_softmax(-1).gather(1, expected[:, None])
    return (logits.argmax(-1) == expected).tolist(), float(chosen.mean())


def test_every_prompt_by_itself() -> None:
    model, tokenizer = tiny_model("llama", num_hidden_layers=2), tiny_tokenizer()
    decoder = Decoder(model)
    protocols = ("strict", "tokens", "magnitude", "generation", "contains", "fluency", "axes")
    options = SuiteOptions(protocols, 4, 6, 5, bootstrap_samples=0, records=True)
    suite = Suite(decoder, tokenizer, STREAM, options=options)
    suite.measure()
    unedited, before = next(p.found for p in suite.prompts if p.item.prompt == "Lyon is"), suite.prompts
    assert (unedited["strict"], unedited["log_prob"], unedited["log_prob_other"]) == (True, None, None)
    decoder.sites[0].weight.copy_(torch.randn(decoder.sites[0].weight.shape))
    results = suite.measure()
    lines = json.loads(json.dumps(list(record_lines(before, suite.prompts)), allow_nan=False))

    assert {(line["edit"], line["id"]) for line in lines} == {(2, "second")}
    keys = ("aspect", "way", "prompt", "answers")
    assert [tuple(line[key] for key in keys) for line in lines] == [
        ("efficacy", "", "Rome is", ["Paris in Italy", "London"]),
        ("generalization", "rephrasing", "In Rome", ["Paris in Italy", "London"]),
        ("specificity", "other_subjects", "Oslo is", ["small"]),
        ("specificity", "other_subjects", "Lyon is", []),
        ("reasoning", "", "Spain is", ["Rome"]),
        ("fluency", "", "The city of Rome", []),
    ]
    others = ("small", "small", "Paris in Italy")
    for line, other in zip(lines[:3], others, strict=True):
        found = line["after"]
        right = [asked(model, tokenizer, line["prompt"], answer) for answer in line["answers"]]
        assert found["strict"] == any(all(tokens) for tokens, _ in right)
        assert found["tokens"] == pytest.approx(max(sum(tokens) / len(tokens) for tokens, _ in right), abs=1e-6)
        assert found["log_prob"] == pytest.approx(right[0][1], rel=1e-4)
        assert found["log_prob_other"] == pytest.approx(asked(model, tokenizer, line["prompt"], other)[1], rel=1e-4)
        whole = generate(decoder, tokenizer, [line["prompt"]], 30)[0]
        assert whole.startswith(found["generation"]["text"])
        assert whole.startswith(found["contains"]["text"])
    assert "generation" not in lines[3]["after"]  # nobody knows its answer
    assert "generation" not in lines[4]["after"]
    text = lines[5]["after"]["fluency"]["text"]
    assert text == generate(decoder, tokenizer, ["The city of Rome"], 5)[0]
    assert lines[5]["after"]["fluency"]["entropy"] == weighted_entropy(f"The city of Rome {text}")
    assert results["fluency"]["entropy"]["value"] == pytest.approx(lines[5]["after"]["fluency"]["entropy"])

    # Their means are the metrics.
    for aspect in ("efficacy", "generalization", "specificity"):
        own = [line["after"] for line in lines if line["aspect"] == aspect]
        for protocol in ("strict", "tokens"):
            mean = 100 * sum(found[protocol] for found in own) / len(own)
            assert results[protocol][aspect]["value"] == pytest.approx(mean, abs=1e-4)
        pairs = [(f["log_prob"], f["log_prob_other"]) for f in own if f["log_prob_other"] is not None]
        likelier = 100 * sum(new > old for new, old in pairs) / len(pairs)
        assert results["magnitude"][aspect]["value"] == likelier
        texts = [found["generation"]["right"] for found in own if "generation" in found]
        assert results["generation"][aspect]["value"] == 100 * sum(texts) / len(texts)


def test_answers_are_asked_for_whatever_the_protocols() -> None:
    decoder, tokenizer = Decoder(tiny_model("llama", num_hidden_layers=2)), tiny_tokenizer()
    suite = Suite(decoder, tokenizer, STREAM, options=SuiteOptions(("contains",), records=True))
    assert list(suite.measure()) == ["edits", "contains"]
    assert [set(prompt.found) for prompt in suite.prompts[:2]] == [{"strict", "tokens", "log_prob", "contains"}] * 2
    silent = Suite(decoder, tokenizer, STREAM, options=SuiteOptions(("contains",)))
    silent.measure()
    assert silent.prompts == []
