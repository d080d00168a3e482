import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aeplus.data.formats import mquake
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError
from aeplus.evaluation.questions import Baseline, edit_items, evaluate, tokenize_items
from aeplus.evaluation.suite import Suite, SuiteOptions
from aeplus.models.decoder import Decoder
from aeplus.models.tokens import encode
from tiny import tiny_model, tiny_tokenizer

ROWS = ("strict", "tokens", "magnitude", "axes")
STREAM = [
    EditRequest(
        "{} is",
        "Rome",
        "Paris in Italy",
        rephrase=("In Rome", "In London"),
        neighborhood=(Probe("Oslo is", "small"), Probe("Lyon is")),
        axes=(
            Probe("London is", None, axis="locality"),
            Probe("Lyon is", None, axis="neighbors"),  # a row of Specificity too
            Probe("Spain is", "Rome", ("Italy", "France"), "reasoning"),
        ),
        generation=("In the city of Rome",),
        target_true="small",
    ),
    EditRequest("{} is", "Oslo", "London", aliases=("France",), rephrase=("In Oslo",)),
    EditRequest("{} is", "Rome", "Italy", rephrase=("In the city of Rome",), target_true="small"),
]


@pytest.fixture
def text(tmp_path: Path) -> str:
    sentence = "The capital of France is Paris and people speak French in Lyon and in Gaul. Rome is old. "
    (tmp_path / "text.txt").write_text("\n\n".join([sentence] * 4))
    return str(tmp_path / "text.txt")


def parts() -> tuple[Any, Decoder, Any]:
    model = tiny_model("llama", num_hidden_layers=2)
    return model, Decoder(model), tiny_tokenizer()


def test_every_protocol_before_and_after(text: str) -> None:
    _, decoder, tokenizer = parts()
    protocols = (*ROWS, "generation", "fluency", "drift")
    options = SuiteOptions(protocols, fluency_length=6, generation_length=4, corpus=text, bootstrap_samples=50)
    dropped = frozenset({"In London"})
    suite = Suite(decoder, tokenizer, STREAM, dropped, options)
    before = suite.measure()
    assert list(before) == ["edits", *protocols[:3], "generation", "fluency", "axes", "axes_tokens", "drift"]
    assert json.loads(json.dumps(before, allow_nan=False)) == before
    assert suite.measure() == before  # and nothing is left over from the first time

    assert before["edits"] == 2  # the first is edited again
    assert {name: part["count"] for name, part in before["strict"].items() if name != "score"} == {
        "efficacy": 2,
        "generalization": 2,
        "specificity": 0,
        "generalization_rephrasing": 2,
    }
    assert before["magnitude"]["left_out"] == 1
    assert before["magnitude"]["efficacy"]["count"] == 1
    assert before["axes"] == {}
    assert before["fluency"]["entropy"]["count"] == 2
    assert before["drift"]["ratio"] == 1.0
    assert before["drift"]["kl"]["count"] == 1  # equal beginnings of sentences are one prompt

    first = suite.measure(edited=1)
    assert (first["edits"], first["strict"]["generalization"]["count"]) == (1, 1)  # one was dropped
    assert first["axes"]["locality"] == {"value": 100.0, "low": 100.0, "high": 100.0, "count": 1}
    assert first["strict"]["specificity"]["value"] == 50.0  # the unedited model's answer is one of two
    assert set(first["magnitude"]) == {
        *("efficacy", "generalization", "specificity", "score", "left_out"),
        *("efficacy_gap", "generalization_gap", "specificity_gap"),
    }

    baseline = Baseline(decoder, tokenizer, [("Lyon is", "auto")])
    decoder.sites[0].weight.copy_(torch.randn(decoder.sites[0].weight.shape))
    after = suite.measure(edited=1)
    assert after["axes"]["locality"]["value"] == 0.0  # compared with the answer of before
    assert after["drift"]["kl"]["value"] > 0
    expected = evaluate(decoder, tokenize_items(tokenizer, edit_items(STREAM[:1], dropped), baseline)).summary()
    assert {name: part["value"] for name, part in after["strict"].items() if name != "score"} == {
        name: value for name, value in expected.items() if name != "score"
    }
    assert after["strict"]["score"] == expected["score"]


@pytest.mark.parametrize(("last", "holding"), [("Italy", 4), ("France", 2)])
def test_repeated_edits_count_unless_another_answer_supersedes_them(last: str, holding: int) -> None:
    """One edit in three cases and another edit; the last repetition may have another answer."""
    _, decoder, tokenizer = parts()
    edits = [("Rome", "Italy"), ("Oslo", "London"), ("Rome", "Italy"), ("Rome", last)]
    stream = [
        EditRequest(
            *("{} is", subject, answer),
            rephrase=(f"In {subject}",),
            axes=(Probe(f"{subject} {i} is", "small", axis="multi_hop"),),
            case=f"case {i}",
            target_true="small",
        )
        for i, (subject, answer) in enumerate(edits)
    ]
    options = SuiteOptions((*ROWS, "generation", "fluency"), fluency_length=4, generation_length=2, bootstrap_samples=0)
    results = Suite(decoder, tokenizer, stream, options=options).measure()
    assert results["edits"] == holding
    for protocol in ("strict", "tokens", "magnitude", "generation"):
        assert [results[protocol][aspect]["count"] for aspect in ("efficacy", "generalization")] == [holding] * 2
    assert results["axes"]["multi_hop"]["count"] == holding
    assert results["fluency"]["entropy"]["count"] == holding


def test_prompts_without_room_to_generate_are_left_out_of_what_generates() -> None:
    _, decoder, tokenizer = parts()
    long = " ".join(["Rome"] * 60)
    assert decoder.context_length == 128
    stream = [EditRequest("{} is", "Oslo", "London", rephrase=("In Oslo", f"{long} is"), generation=(f"{long} in",))]
    options = SuiteOptions(("strict", "generation", "fluency"), 110, fluency_length=110, bootstrap_samples=0)
    with pytest.warns(UserWarning, match="left out") as said:
        results = Suite(decoder, tokenizer, stream, options=options).measure()
    assert [str(warning.message) for warning in said] == [
        f"1 prompt without room for 110 generated tokens in the model's context of 128, left out of {name}, "
        f"first {text[:60]!r}"
        for name, text in (("generation", f"{long} is"), ("fluency", f"{long} in"))
    ]
    assert [results[name]["generalization"]["count"] for name in ("strict", "generation")] == [2, 1]
    assert results["fluency"]["entropy"]["count"] == 0


def test_each_distinct_row_runs_once() -> None:
    _, decoder, tokenizer = parts()
    suite = Suite(decoder, tokenizer, STREAM, options=SuiteOptions(ROWS))
    ran: list[int] = []
    handle = decoder.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: ran.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    suite.measure(edited=1)
    handle.remove()
    texts = [
        ("Rome is", "Paris in Italy"), ("In Rome", "Paris in Italy"), ("In London", "Paris in Italy"),
        ("Rome is", "small"), ("In Rome", "small"), ("In London", "small"),
        ("Oslo is", "small"), ("Oslo is", "Paris in Italy"), ("Lyon is", None),
        ("London is", None), ("Spain is", "Rome"), ("Spain is", "Italy"), ("Spain is", "France"),
    ]  # fmt: skip
    assert sum(ran) == len(texts)


def test_any_answer_of_an_axis_counts() -> None:
    """The third accepted answer is made the model's first choice."""
    model, decoder, tokenizer = parts()
    suite = Suite(decoder, tokenizer, STREAM, options=SuiteOptions(("axes",)))
    assert suite.measure(edited=1)["axes"]["reasoning"]["value"] == 0.0
    row = encode(tokenizer, ["Spain is"], ["France"])[0]
    best = int(model(torch.tensor([row.ids[: row.answer]])).logits[0, -1].argmax())
    head = model.get_output_embeddings().weight
    head[[best, row.answer_ids[0]]] = head[[row.answer_ids[0], best]]
    assert len(row.answer_ids) == 1
    assert suite.measure(edited=1)["axes"]["reasoning"]["value"] == 100.0


def test_mquakes_cases_count_whole() -> None:
    """Of the first case one of two questions and both hops are made right, of the second one hop alone."""
    model, decoder, tokenizer = parts()
    records = [
        {
            "case_id": number,
            "requested_rewrite": [{"prompt": "{} is", "subject": subject, "target_new": {"str": "Italy"}}],
            "questions": questions,
            "new_answer": "France",
            "new_single_hops": [{"cloze": hop, "answer": "France", "answer_alias": []} for hop in hops],
        }
        for number, subject, questions, hops in (
            (1, "Rome", ["Spain is", "Spain in"], ["Spain is", "Spain is"]),
            (2, "Oslo", ["Lyon in"], ["Lyon in", "Spain is"]),
        )
    ]
    stream = [edit for record in records for edit in mquake.parse(record, "answers")]
    stream.append(replace(STREAM[0], subject="Paris", axes=(Probe("Spain is", "France", axis="multi_hop"),)))  # no case
    row = encode(tokenizer, ["Spain is"], ["France"])[0]
    best = int(model(torch.tensor([row.ids[: row.answer]])).logits[0, -1].argmax())
    head = model.get_output_embeddings().weight
    head[[best, row.answer_ids[0]]] = head[[row.answer_ids[0], best]]
    suite = Suite(decoder, tokenizer, stream, options=SuiteOptions(("axes",), bootstrap_samples=0, records=True))
    found = suite.measure()["axes"]
    right = {
        prompt.item.prompt for prompt in suite.prompts if prompt.found["strict"] and prompt.item.answer == "France"
    }
    assert right == {"Spain is"}
    assert {name: (part["value"], part["count"]) for name, part in found.items()} == {
        "multi_hop": (50.0, 4),  # two of four questions, one of which belongs to no case
        "multi_hop_any": (50.0, 2),
        "single_hop": (75.0, 4),
        "single_hop_all": (50.0, 2),
    }
    assert "multi_hop_any" not in Suite(decoder, tokenizer, stream[2:], options=suite.options).measure()["axes"]


def test_axes_by_tokens() -> None:
    """MEND's and EasyEdit's accuracy, of the axes; beside ``axes`` where both protocols are chosen."""
    model, decoder, tokenizer = parts()
    stream = [
        EditRequest("{} is", "Rome", "Italy", axes=(Probe("Spain is", "London in Italy", ("Paris in France",), "far"),))
    ]
    shares = []
    for answer in ("London in Italy", "Paris in France"):
        row = encode(tokenizer, ["Spain is"], [answer])[0]
        best = model(torch.tensor([row.ids])).logits[0, row.answer - 1 : -1].argmax(-1).tolist()
        if answer == "London in Italy":  # two of its tokens are made the model's first choice
            head = model.get_output_embeddings().weight
            for place in (0, 1):
                head[[best[place], row.answer_ids[place]]] = head[[row.answer_ids[place], best[place]]]
            best = model(torch.tensor([row.ids])).logits[0, row.answer - 1 : -1].argmax(-1).tolist()
        shares.append(sum(a == b for a, b in zip(best, row.answer_ids, strict=True)) / len(best))
    assert 0 < max(shares) < 1
    found = Suite(decoder, tokenizer, stream, options=SuiteOptions(("tokens", "axes"))).measure()
    assert list(found) == ["edits", "tokens", "axes", "axes_tokens"]
    assert found["axes"]["far"]["value"] == 0.0
    assert found["axes_tokens"]["far"]["value"] == pytest.approx(100 * max(shares))
    assert found["axes_tokens"]["far"]["count"] == 1
    assert "axes_tokens" not in Suite(decoder, tokenizer, stream, options=SuiteOptions(("axes",))).measure()


def test_means_over_edits() -> None:
    """One edit with four rephrasings, of which the model answers none, and one with one, which it does."""
    model, decoder, tokenizer = parts()
    row = encode(tokenizer, ["In Oslo"], ["France"])[0]
    best = int(model(torch.tensor([row.ids[: row.answer]])).logits[0, -1].argmax())
    head = model.get_output_embeddings().weight
    head[[best, row.answer_ids[0]]] = head[[row.answer_ids[0], best]]
    wrong = tuple(f"{place} is" for place in ("Spain", "Lyon", "Gaul", "France"))
    stream = [
        EditRequest("{} is", "Rome", "small", rephrase=wrong, axes=(Probe("In Rome", "small", axis="far"),)),
        EditRequest(
            "{} is", "Oslo", "France", rephrase=("In Oslo",), axes=(Probe("In Oslo", "France", axis="far"),) * 3
        ),
    ]
    options = SuiteOptions(("strict", "tokens", "axes"), bootstrap_samples=200)
    pooled = Suite(decoder, tokenizer, stream, options=options).measure()
    of_edits = Suite(decoder, tokenizer, stream, options=replace(options, average="edits")).measure()
    for protocol in ("strict", "tokens"):
        assert [found[protocol]["generalization"]["value"] for found in (pooled, of_edits)] == [20.0, 50.0]
        assert [found[protocol]["generalization"]["count"] for found in (pooled, of_edits)] == [5, 5]
        assert of_edits[protocol]["efficacy"] == pooled[protocol]["efficacy"]  # one prompt each
        known = [of_edits[protocol][aspect]["value"] for aspect in ("efficacy", "generalization")]
        assert of_edits[protocol]["score"] == sum(known) / 2
    assert [found["axes"]["far"]["value"] for found in (pooled, of_edits)] == [75.0, 50.0]
    assert (of_edits["strict"]["generalization"]["low"], of_edits["strict"]["generalization"]["high"]) == (0.0, 100.0)


def test_a_broken_model_gives_none(text: str) -> None:
    _, decoder, tokenizer = parts()
    suite = Suite(decoder, tokenizer, STREAM, options=SuiteOptions(("magnitude", "drift"), held_out=text))
    decoder.sites[0].weight.fill_(torch.nan)
    found = suite.measure()
    assert found["drift"]["perplexity"] is None
    assert found["drift"]["kl"]["value"] is None
    assert found["drift"]["perplexity_before"] > 0
    json.dumps(found, allow_nan=False)


def test_half_precision() -> None:
    model = tiny_model("llama", num_hidden_layers=2).to(torch.bfloat16)
    found = Suite(Decoder(model), tiny_tokenizer(), STREAM).measure()
    assert found["strict"]["efficacy"]["count"] == 2


def test_held_out_text_comes_after_what_was_read(text: str) -> None:
    _, decoder, tokenizer = parts()
    options = SuiteOptions(("drift",), corpus=text, skip_tokens=1)
    whole = Suite(decoder, tokenizer, STREAM, options=replace(options, skip_tokens=0)).measure()["drift"]["tokens"]
    assert Suite(decoder, tokenizer, STREAM, options=options).measure()["drift"]["tokens"] == whole * 3 / 4
    with pytest.raises(InputError, match=r"after the first 900 tokens, which the statistics read, in .*text\.txt"):
        Suite(decoder, tokenizer, STREAM, options=replace(options, skip_tokens=900))
    # A file of its own is held out from its beginning.
    apart = replace(options, skip_tokens=900, held_out=text)
    assert Suite(decoder, tokenizer, STREAM, options=apart).measure()["drift"]["tokens"] == whole
    beginning = "The capital of France is Paris and people speak French in Lyon"
    found = Suite(decoder, tokenizer, STREAM, frozenset({beginning}), apart).measure()
    assert found["drift"]["kl"]["count"] == 0


def test_references_of_consistency(tmp_path: Path) -> None:
    _, decoder, tokenizer = parts()
    path = tmp_path / "references.json"
    path.write_text(json.dumps({"italy": ["Rome is in Italy"]}))
    options = SuiteOptions(("fluency",), fluency_length=4, references=str(path))
    assert Suite(decoder, tokenizer, STREAM, options=options).measure()["fluency"]["consistency"]["count"] == 1
    options = replace(options, references=None)
    assert Suite(decoder, tokenizer, STREAM, options=options).measure()["fluency"]["consistency"]["value"] is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"protocols": ["strict", "fluent"]}, "expected protocols out of strict, .*, drift, got fluent; check"),
        ({"generation_length": 0}, "expected evaluation.generation_length above 0, got 0; choose a positive number"),
        ({"average": "edit"}, "expected evaluation.average prompts or edits, got 'edit'; choose one of these"),
        ({"bootstrap_samples": -1}, "expected evaluation.bootstrap_samples of 0 or more, got -1; choose another"),
        ({"confidence": 1.0}, "expected evaluation.confidence between 0 and 1, got 1.0; choose one such as 0.95"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        SuiteOptions(**options)


def test_drift_without_text() -> None:
    _, decoder, tokenizer = parts()
    with pytest.raises(InputError, match="expected held-out text for drift, got neither held_out nor corpus"):
        Suite(decoder, tokenizer, STREAM, options=SuiteOptions(("drift",)))
