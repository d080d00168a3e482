"""What a model cannot read is found before anything is edited, by record and field."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import aeplus
from aeplus.data.datamodule import EditDataModule
from aeplus.data.readability import ModelLimits, Problem, find_problems, without
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError
from aeplus.models.tokens import token_ids
from small import SMALL, learning_options
from tiny import tiny_model, tiny_tokenizer

GOOD = EditRequest("The capital of {} is", "France", "Rome", id="a")


def found(limits: ModelLimits, *edits: EditRequest) -> list[tuple[int, str, bool]]:
    return [(p.edit, p.field, p.test is not None) for p in find_problems(limits, edits)]


def test_nothing_is_found_where_everything_fits() -> None:
    tests = {"rephrase": ("In France",), "neighborhood": (Probe("Oslo is", "big"),), "generation": ("x",)}
    edit = EditRequest(GOOD.prompt, "France", "Rome", **tests)  # type: ignore[arg-type]
    assert found(ModelLimits(tiny_tokenizer(), 128, 400, ("", "I am. ")), edit) == []
    assert found(ModelLimits(tiny_tokenizer(), None, None), edit) == []


def test_lengths_count_the_longest_context() -> None:
    tokenizer = tiny_tokenizer()
    length = len(token_ids(tokenizer, "The capital of France is Rome"))
    context = "Because of it. "
    most = len(token_ids(tokenizer, f"{context}The capital of France is Rome"))
    assert found(ModelLimits(tokenizer, most, 400, ("", context)), GOOD) == []
    (problem,) = find_problems(ModelLimits(tokenizer, most - 1, 400, ("", context)), [GOOD])
    assert (problem.field, problem.test) == ("prompt", None)
    assert problem.reason.startswith(
        "expected prompt and answer behind the longest sampled context to fit the model's context of "
        f"{most - 1} tokens, got {most}, {length} without it; shorten either, or lower targets.context_length"
    )
    (problem,) = find_problems(ModelLimits(tokenizer, length - 1), [GOOD])
    assert problem.reason == (
        f"expected prompt and answer to fit the model's context of {length - 1} tokens, got {length}; shorten either."
    )


def test_tokens_outside_the_embedding_are_named_by_field() -> None:
    tokenizer = tiny_tokenizer()
    edits = [
        EditRequest("The place of {} is", "Oz", "Rome"),
        EditRequest("x {} x", "France", "x"),
        EditRequest("x {} x", "x", " France"),
    ]
    big = max(token_ids(tokenizer, " France"))
    assert found(ModelLimits(tokenizer, None, big), *edits)[-2:] == [(1, "subject", False), (2, "target_new", False)]
    (problem,) = find_problems(ModelLimits(tokenizer, None, big), edits[2:])
    assert problem.reason.startswith(
        f"expected tokens that the model has an embedding of, {big} of them, got token {big} ("
    )


def test_subjects_and_targets_without_tokens() -> None:
    from tokenizers import normalizers

    from tokenizers_of_kinds import byte_level

    tokenizer = byte_level(normalizers.Replace("\u200b", ""))
    edits = [
        EditRequest("The {} is", "\u200b", "Paris"),
        EditRequest("The {} is", "Paris", "\u200b"),
        EditRequest("The {}", "Par", "is", join="none"),
        EditRequest("The {} is", "Paris", "x", neighborhood=(Probe("The", "\u200b"),)),
    ]
    assert found(ModelLimits(tokenizer), *edits) == [
        (0, "subject", False), (1, "target_new", False), (2, "target_new", False), (3, "neighborhood 1", True)
    ]  # fmt: skip
    reasons = [problem.reason for problem in find_problems(ModelLimits(tokenizer), edits)]
    assert reasons[0] == "expected a subject that the tokenizer keeps, got '\\u200b'; write another."
    assert reasons[1] == "expected an answer that the tokenizer keeps, got '\\u200b'; write another."
    assert reasons[2].startswith("expected subject and answer to have tokens of their own, got ' Paris' for the end of")


def test_what_is_lost() -> None:
    several = EditRequest("{} is", "A", "x", ("p", "q"), (Probe("r"),), id="b", case="c")
    partner = EditRequest("{} was", "B", "x", id="b", case="c")
    lost = without([GOOD, several], [Problem(1, "rephrase 1", "", ("rephrase", 0))])
    assert lost[0] is GOOD
    assert lost[1] is not None
    assert lost[1].rephrase == ("q",)
    assert without([GOOD, several, partner], [Problem(2, "prompt", "")]) == [GOOD, None, None]  # a case stays together


LONG = "a " * 110


def edits_file(folder: Path, **more: Any) -> str:
    records = [
        {"prompt": "The capital of {} is", "subject": "France", "target_new": "Rome"},
        {"prompt": f"{LONG}the {{}} is", "subject": "Italy", "target_new": "Rome", "id": "long"},
        {"prompt": "The city of {} is", "subject": "London", "target_new": "Paris", **more},
    ]
    (folder / "edits.json").write_text(json.dumps(records))
    return str(folder / "edits.json")


def session_of(model: Any, **options: Any) -> Any:
    from aeplus.run.session import EditSession

    method, targets, preserved = learning_options("alphaedit")
    return EditSession(model, tiny_tokenizer(), [1, 2], method, targets, preserved, **options)


def test_a_record_that_is_too_long_is_refused_before_anything_else(tmp_path: Path) -> None:
    data = EditDataModule(edits_file(tmp_path), batch_size=1, preserved_count=0)
    data.setup("fit")
    session = session_of(tiny_model())
    with pytest.raises(
        InputError, match=r"^record long, prompt: expected prompt and answer .*data.skip_unusable: true"
    ):
        session.prepare(data)
    assert not session.report.seconds.get("statistics")


def test_skipping_leaves_out_exactly_what_cannot_be_read(tmp_path: Path) -> None:
    path = edits_file(tmp_path, rephrase=["The city of London, the", LONG * 2], neighborhood=[{"prompt": "Oslo is"}])
    data = EditDataModule(path, batch_size=1, preserved_count=0, skip_unusable=True)
    data.setup("fit")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session_of(tiny_model()).prepare(data)
    told = [str(warning.message) for warning in caught]
    assert any(
        text.startswith("1 of 3 edits cannot be read by this model and are left out, first record long")
        for text in told
    )
    assert any(
        text.startswith("1 test prompts cannot be read by this model and are left out, first record 3") for text in told
    )
    assert [edit.subject for edit in data.requests] == ["France", "London"]
    assert data.requests[1].rephrase == ("The city of London, the",)
    assert {item.request_index for item in data.validation.firsts.values()} <= {0, 1}
    assert data.batches == 2


def test_edit_leaves_out_what_it_is_told_to() -> None:
    records = [
        {"prompt": "The capital of {}", "subject": "France", "target_new": "Rome"},
        {"prompt": f"{LONG}{LONG}{{}}", "subject": "Italy", "target_new": "Rome"},
    ]
    with pytest.raises(InputError, match=r"^record 2, prompt: "):
        aeplus.edit(tiny_model(), tiny_tokenizer(), records, "alphaedit", **SMALL)
    damaged = [*records, {**records[0], "subject": ""}]
    for given, said in ((records, "1 of 2 edits cannot be read"), (damaged, "1 of 3 records cannot be used")):
        with pytest.warns(UserWarning, match=said):
            result = aeplus.edit(tiny_model(), tiny_tokenizer(), given, "alphaedit", skip_unusable=True, **SMALL)
        assert result.metrics["edits"] == 1


def test_beginnings_of_sentences_come_from_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Path:
        pytest.fail("gensim was asked for")

    monkeypatch.setattr("aeplus.preserved.corpus.gensim_file", none)
    data = EditDataModule(preserved_count=3).attach([GOOD])
    data.setup("fit")
    session_of(tiny_model()).prepare(data)
    assert data.validation.preserved
    options = {**SMALL, "preserved_count": 2, "smoothing_steps": 2}
    records = [{"prompt": "The capital of {}", "subject": "France", "target_new": "Rome"}]
    assert aeplus.edit(tiny_model(), tiny_tokenizer(), records, "alphaedit_plus", **options).updates


def test_beginnings_in_a_script_without_spaces() -> None:
    from aeplus.data.validation import preserved_snippets

    first = "法国的首都是巴黎，巴黎是一座美丽的城市，有许多博物馆和花园。"
    second = "日本的首都是东京，东京是世界上人口最多的城市之一，非常热闹。"
    starts = [probe.prompt for probe in preserved_snippets([f"{first}短句。{second}"], 5, 0)]
    assert starts == [first[:24], second[:24]]
