import importlib.util
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from aeplus.data.formats import counterfact
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError
from aeplus.evaluation.free_text import measure_fluency, measure_generation
from aeplus.evaluation.questions import PromptItem
from aeplus.evaluation.references import References, corpus_references, read_references
from aeplus.evaluation.suite import Suite, SuiteOptions
from aeplus.metrics.text import (
    Consistency,
    Fluency,
    answer_comes_first,
    answer_is_named,
    normalize_text,
    weighted_entropy,
    words_and_punctuation,
)
from aeplus.models.decoder import Decoder
from aeplus.models.generate import generate
from tiny import tiny_model, tiny_tokenizer

TEXT = "Rome is old, and Rome is big; and Rome is where all roads lead, and roads are old."
PROMPTS = ["Rome is", "The capital of France is Paris and", "In London people speak", "Rome is", "Oslo"]


def test_fluency_against_scipy() -> None:
    words = words_and_punctuation(TEXT)
    expected = []
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = list(Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)).values())
        expected.append(weight * stats.entropy(counts, base=2))
    assert weighted_entropy(TEXT) == pytest.approx(np.mean(expected))
    assert weighted_entropy("") == weighted_entropy("Rome") == 0.0
    metric = Fluency()
    metric.update([TEXT, "Rome"])
    assert float(metric.compute()) == pytest.approx(np.mean(expected) / 2)


def test_consistency_against_scikit_learn() -> None:
    documents = [TEXT, "Oslo is cold.", "Paris is a city in France."]
    texts, references = ["Rome is cold", "Oslo is a city", "!!"], [TEXT, "Paris and Oslo", "Paris"]
    metric = Consistency(documents)
    metric.update(texts, references)
    vectorizer = TfidfVectorizer().fit(documents)
    pairs = cosine_similarity(vectorizer.transform(texts), vectorizer.transform(references))
    assert float(metric.compute()) == pytest.approx(100 * float(np.diag(pairs).mean()), rel=1e-5)


def test_consistency_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else found(name))
    with pytest.raises(InputError, match=r"expected scikit-learn for consistency, .* pip install scikit-learn"):
        Consistency([TEXT])


def test_references_of_no_words() -> None:
    with pytest.raises(InputError, match="expected reference texts that hold words, got none"):
        Consistency(["!", "a"])


@pytest.mark.parametrize(
    "content",
    [
        {"Rome": ["one", "two"], "Oslo": "three"},
        [{"target": "Rome", "text": ["one", "two"]}, {"target": "Oslo", "text": "three"}],
        '{"target": "Rome", "text": "one"}\n\n{"target": "ROME", "text": "two"}\n{"target": "Oslo", "text": "three"}\n',
    ],
)
def test_files_of_references(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "references.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    found = read_references(path)
    assert (found["rome "], found["Oslo"], found["Paris"]) == ("one two", "three", None)
    assert list(found.documents) == ["one", "two", "three"]


def test_romes_attribute_snippets(tmp_path: Path) -> None:
    def snippets(relation: str, answer: str, *texts: str) -> dict[str, Any]:
        samples = [{"name": "someone", "text": text} for text in texts]
        return {"relation_id": relation, "target_id": answer, "samples": samples}

    path = tmp_path / "attribute_snippets.json"
    path.write_text(json.dumps([snippets("P103", "Q1860", "one", "two"), snippets("P1412", "Q1860", "three")]))
    found = read_references(path)
    new = {"str": "English", "id": "Q1860"}
    rewrite = {"prompt": "{} speaks", "subject": "Ann", "target_new": new, "relation_id": "P103"}
    (edit,) = counterfact.parse({"requested_rewrite": rewrite}, "answers")
    assert found.of(edit) == "one two"  # of this relation alone
    assert found.of(replace(edit, attribute="P103 Q150")) is None
    assert found.of(replace(edit, attribute="")) is None
    assert edit.without_tests().attribute == ""
    path.write_text(json.dumps([{"relation_id": "P103", "target_id": "Q1860", "samples": ["one"]}]))
    with pytest.raises(InputError, match=r"or ROME's attribute snippets in .*, got None for 'P103 Q1860'"):
        read_references(path)


@pytest.mark.parametrize("content", ["", "[]", "{", "3", '"text"', '{"Rome": 3}', '{"Rome": [3]}', '["Rome"]', "null"])
def test_damaged_references(content: str, tmp_path: Path) -> None:
    path = tmp_path / "references.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"expected an object like .*, got .*; (correct it|add some)\."):
        read_references(path)
    with pytest.raises(InputError, match=r"none.json, got a file that cannot be read"):
        read_references(tmp_path / "none.json")


def test_references_out_of_a_corpus() -> None:
    corpus = ["Romeo loves Juliet.", "NEW YORK is big.", "New roads lead to York and Rome.", "Rome!", "Rome?"]
    found = corpus_references(corpus, ["Rome", "New York", "Oslo", "..."], per_answer=2)
    assert found["Rome"] == "New roads lead to York and Rome. Rome!"
    assert found["new york"] == "NEW YORK is big."
    assert found["Oslo"] is None
    assert corpus_references(corpus, ["Rome"], limit=2)["Rome"] is None


@pytest.mark.parametrize(
    ("kind", "side"),
    zip(["gpt2", "gptj", "gpt_neox", "llama", "mistral", "qwen3", "gemma2"], ["left", "right"] * 4, strict=False),
)
def test_generations_are_those_of_one_prompt_at_a_time(kind: str, side: str) -> None:
    attention = "eager" if kind == "gemma2" else "sdpa"
    model, tokenizer = tiny_model(kind, attention=attention), tiny_tokenizer(side, bos=side == "left")
    found = generate(Decoder(model), tokenizer, PROMPTS, 10, batch_tokens=10_000)
    for prompt, text in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=10)
        assert text == tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip(), prompt
    assert generate(Decoder(model), tokenizer, PROMPTS, 10, batch_tokens=1) == found


def test_texts_that_are_drawn() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    decoder, state = Decoder(model), torch.get_rng_state()
    greedy = generate(decoder, tokenizer, PROMPTS, 10)
    drawn = [generate(decoder, tokenizer, PROMPTS, 10, top_k=5, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert len({tuple(texts) for texts in (greedy, *drawn)}) == 3
    assert torch.equal(state, torch.get_rng_state())


def test_a_text_ends_where_the_model_ends_it() -> None:
    """Also beside longer texts in its batch, and where the tokenizer has nothing to pad with."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    decoder = Decoder(model)
    whole = generate(decoder, tokenizer, PROMPTS, 8)
    tokenizer.pad_token = None
    ids = torch.tensor([tokenizer("Oslo")["input_ids"]])
    third = int(model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)[0, -6])
    model.generation_config.eos_token_id = [third]
    cut = generate(decoder, tokenizer, PROMPTS, 8)
    assert whole[-1].startswith(cut[-1])
    assert len(cut[-1]) < len(whole[-1])


def test_a_checkpoints_own_settings_do_not_count() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    plain = generate(Decoder(model), tokenizer, PROMPTS, 10)
    model.generation_config.update(repetition_penalty=5.0, do_sample=True, temperature=9.0, num_beams=3)
    state = torch.get_rng_state()
    assert generate(Decoder(model), tokenizer, PROMPTS, 10) == plain
    assert torch.equal(state, torch.get_rng_state())


def test_texts_of_a_total_length_have_no_end() -> None:
    """As ``generate_fast`` of ROME's code: prompt and text have so many tokens, and what would end a text does not."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    decoder = Decoder(model)
    sizes = [len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    assert len(set(sizes)) > 1
    texts = []
    for prompt, size in zip(PROMPTS, sizes, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        for _ in range(9 - size):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        texts.append(tokenizer.decode(ids[size:], skip_special_tokens=True).strip())
    assert max(sizes) == 9
    assert texts[sizes.index(max(sizes))] == ""
    first = tokenizer("Oslo")["input_ids"]
    model.generation_config.eos_token_id = int(model(torch.tensor([first])).logits[0, -1].argmax())  # at once
    assert generate(decoder, tokenizer, ["Oslo"], 9) == [""]
    for at_once in (1, 10_000):
        assert generate(decoder, tokenizer, PROMPTS, 9, at_once, total=True) == texts
    assert len(generate(decoder, tokenizer, ["Oslo"], 128, total=True)[0]) > 0
    with pytest.raises(InputError, match=r"context of 128 tokens, got 1?\d tokens for 'Oslo'… and 12\d to generate"):
        generate(decoder, tokenizer, ["Oslo"], 130, total=True)


def test_no_room_to_generate() -> None:
    with pytest.raises(
        InputError, match=r"to fit the model's context of 128 tokens, got \d tokens for 'Rome is'… and 127"
    ):
        generate(Decoder(tiny_model("llama")), tiny_tokenizer(), ["Rome is"], 127)
    assert generate(Decoder(tiny_model("llama")), tiny_tokenizer(), [], 127) == []


@pytest.mark.parametrize(
    ("text", "answer", "first"),
    [
        (" Rome, the capital of", "Rome", True),
        ("the  ROME.", "Rome", True),
        ("Romeo", "Rome", False),
        ("called Rome", "Rome", False),
        ("**New York**", "New-York", True),
        ("US president", "the U.S.", True),
        ("", "Rome", False),
        ("!", "?", False),
        ("The Who played", "The Who", True),
        ("A is the first letter", "A", True),
        ("1996.", "199", False),
        ("パリは首都", "パリ", True),
        ("3.5 million", "35", False),
        ("3.5 million", "3", False),
        ("3.5 million", "3.5", True),
        ("Paris.The city", "Paris", True),
        ("Washington, D.C. is", "Washington DC", True),
        ("رومانيا", "روما", False),
        ("روما، إيطاليا", "روما", True),
        ("रामायण", "राम", False),
        ("राम का", "राम", True),
        ("한국에서", "한국", True),
        ("Rome市的", "Rome", True),
    ],
)
def test_the_answer_must_come_first(text: str, answer: str, first: bool) -> None:
    assert answer_comes_first(text, ["Oslo", answer]) is first


def test_normalized_words() -> None:
    assert normalize_text("  The King's—“big” U.S.\n\tplan ") == "kings big us plan"
    assert normalize_text("J.R.R. Tolkien left in 1937.Then 3.5 p.m...") == "jrr tolkien left in 1937 then 3.5 pm"


def test_generation_of_an_alias_and_of_long_answers() -> None:
    """An answer longer than the option's tokens is waited for."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    decoder = Decoder(model)
    generated = generate(decoder, tokenizer, ["Rome is"], 12)[0]
    items = [
        PromptItem("efficacy", "Rome is", "Oslo", (generated,), 0),
        PromptItem("generalization", "Rome is", generated + " not", (), 0),
        PromptItem("specificity", "Oslo", None, (), 0),
    ]
    found = measure_generation(decoder, tokenizer, items, length=1)
    assert (found["efficacy"]["value"], found["generalization"]["value"], found["score"]) == (100.0, 0.0, 50.0)
    assert found["specificity"] == {"value": None, "low": None, "high": None, "count": 0}


def test_fluency_of_edits() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    decoder = Decoder(model)
    stream = [
        EditRequest("{} is", "Rome", "big", generation=("In Rome", "dropped"), neighborhood=(Probe("x"),)),
        EditRequest("{} is", "Oslo", "Paris"),
    ]
    references = References(["Paris is in France"], {"paris": [0]})
    found = measure_fluency(decoder, tokenizer, stream, references, 8, dropped=frozenset({"dropped"}))
    asked = ["In Rome", "Oslo is"]
    texts = [f"{p} {t}" for p, t in zip(asked, generate(decoder, tokenizer, asked, 8), strict=True)]
    assert found["entropy"]["value"] == pytest.approx(np.mean([weighted_entropy(text) for text in texts]), rel=1e-6)
    assert found["entropy"]["count"] == 2
    assert found["consistency"]["count"] == 1  # nothing is known of 'big'
    alone = Consistency(references.documents)
    alone.update(texts[1:], list(references.documents))
    assert found["consistency"]["value"] == pytest.approx(float(alone.compute()))
    nothing = measure_fluency(decoder, tokenizer, stream, References(), 8)
    assert nothing["consistency"]["value"] is None


def test_fluency_of_texts_of_a_total_length() -> None:
    decoder, tokenizer = Decoder(tiny_model("llama")), tiny_tokenizer()
    stream = [EditRequest("{} is", "Rome", "big"), EditRequest("{} is", "Oslo", "Paris", generation=(PROMPTS[1],))]
    total = len(tokenizer(PROMPTS[1])["input_ids"])
    found = measure_fluency(decoder, tokenizer, stream, References(), total, total=True)
    new = total - len(tokenizer("Rome is")["input_ids"])
    texts = [f"Rome is {generate(decoder, tokenizer, ['Rome is'], new)[0]}", PROMPTS[1]]
    assert found["entropy"]["value"] == pytest.approx(np.mean([weighted_entropy(text) for text in texts]), rel=1e-6)
    options = SuiteOptions(("fluency",), fluency_length=total, fluency_total=True)
    assert Suite(decoder, tokenizer, stream, options=options).measure()["fluency"] == found
    with pytest.warns(
        UserWarning, match="2 prompts without room for a text of 129 tokens in the model's context of 128"
    ):
        assert measure_fluency(decoder, tokenizer, stream, References(), 129, total=True)["entropy"]["count"] == 0


def test_an_answer_is_named_anywhere_as_a_word() -> None:
    assert answer_is_named("I think it is Rome.", ["Oslo", "Rome"])
    assert answer_is_named("The answer: the U.S., of course", ["US"])
    assert answer_is_named("東京は日本の首都です", ["日本"])  # no spaces between words
    assert answer_is_named("It has 1.5 GB", ["1.5 GB"])
    assert answer_is_named("그는 한국에서 왔다", ["한국"])
    assert not answer_is_named("It has 1.5 GB", ["15", "1", "5"])
    assert not answer_is_named("هو في رومانيا", ["روما"])
    assert not answer_is_named("Romeo met Jerome", ["Rome"])
    assert not answer_is_named("", ["Rome"])
    assert not answer_is_named("anything", ["!"])


def test_ways_of_asking_are_apart_in_generated_text() -> None:
    decoder, tokenizer = Decoder(tiny_model("llama")), tiny_tokenizer()
    text = generate(decoder, tokenizer, ["The capital of France is"], 20)[0]
    word = text.split()[-1]  # not the first
    items = [
        PromptItem("generalization", "The capital of France is", word, way="statements"),
        PromptItem("generalization", "The capital of Spain is", "nowhere", way="rephrasing"),
    ]
    named = measure_generation(decoder, tokenizer, items, 20, sampling=(0, 0.95, 0), criterion="contains")
    first = measure_generation(decoder, tokenizer, items, 20, sampling=(0, 0.95, 0))
    assert named["generalization_statements"]["value"] == 100.0
    assert named["generalization_rephrasing"]["value"] == 0.0
    assert named["generalization"]["value"] == named["score"] == 50.0
    assert first["generalization_statements"]["value"] == 0.0
    assert "generalization_openings" not in named
    assert named["specificity"]["value"] is None
