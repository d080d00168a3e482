"""The run as a plain object, driven without a training loop."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import aeplus
from aeplus.data.datamodule import EditDataModule
from aeplus.data.readers import requests_from_records
from aeplus.data.validation import ValidationSet
from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.methods.compositions import named_method
from aeplus.methods.method import Method
from aeplus.module import EditModule
from aeplus.run import editable as run_editable
from aeplus.run import measuring as run_measuring
from aeplus.run.batches import Stream
from aeplus.run.session import EditSession
from small import LEARNING, SUBJECTS, TARGETS, learning_options, records
from tiny import tiny_model, tiny_tokenizer


class ListStream:
    """The least that a session needs: a list, cut into batches."""

    def __init__(self, requests: Sequence[EditRequest], size: int) -> None:
        self.requests, self._size, self.cursor = list(requests), size, 0
        self.validation, self.overlap = ValidationSet((), (), {}), frozenset[str]()

    @property
    def batches(self) -> int:
        return -(-(len(self.requests) - self.cursor) // self._size)

    @property
    def current(self) -> list[EditRequest]:
        return self.requests[self.cursor : self.cursor + self._size]

    @property
    def edited(self) -> list[EditRequest]:
        return self.requests[: self.cursor]

    @property
    def exhausted(self) -> bool:
        return self.cursor >= len(self.requests)


def session(model: Any, method: str = "alphaedit_plus", **options: Any) -> EditSession:
    return EditSession(model, tokenizer(), LEARNING["layers"], *learning_options(method), **options)


def tokenizer() -> Any:
    return tiny_tokenizer()


def drive(run: EditSession, data: Stream, items: Any = None) -> list[int]:
    """Edits the whole stream; which iteration each batch was committed with."""
    committed = []
    while not data.exhausted:
        run.begin()
        done = False
        while not done:
            run.candidate()
            done = run.settle(run.validate(items())[run.monitor] if items else None)
        committed.append(run.commit().candidate.iteration)
    return committed


@pytest.mark.parametrize("method", ["alphaedit_plus", "prune", "kde"])
def test_a_loop_of_ones_own_edits_as_lightning_does(method: str) -> None:
    by_hand, by_lightning = tiny_model("llama"), tiny_model("llama")
    data = EditDataModule(batch_size=3, preserved_count=2, snippet_corpus=LEARNING["corpus"])
    data.attach(requests_from_records(records())).setup("fit")
    run = session(by_hand, method)
    run.prepare(data)
    drive(run, data, data.validation_items)
    report = run.finish()
    options = {**LEARNING, "preserved_count": 2, "snippet_corpus": LEARNING["corpus"], "smoothing_steps": 2}
    if method == "alphaedit_plus":
        options["smooth"] = True
    result = aeplus.edit(by_lightning, tokenizer(), records(), method, batch_size=3, **options)
    for name, weight in by_lightning.state_dict().items():
        assert torch.equal(by_hand.state_dict()[name], weight), name
    assert report.after == result.metrics["after"]
    assert report.leakage == result.metrics["leakage"]
    assert [batch["validation_score"] for batch in report.batches] == [
        batch["validation_score"] for batch in result.metrics["batches"]
    ]


def test_a_plain_list_is_a_stream_and_without_scores_the_last_candidate_is_taken() -> None:
    heard: list[str] = []
    run = session(tiny_model("gpt2"), notify=lambda hook, *_: heard.append(hook))
    data = ListStream(requests_from_records(records()), 3)
    run.prepare(data)
    assert drive(run, data) == [2, 2, 0]  # the last batch holds one edit, which is not smoothed
    assert run.finish().after["efficacy"] == 100.0
    assert heard.count("on_batch_committed") == 3
    assert heard.count("on_candidate") == 7
    assert heard[0] == "on_unedited_model"
    assert len(run.entries) == 3


def test_candidates_are_asked_with_the_join_of_each_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = requests_from_records(records())
    data = EditDataModule(batch_size=1, preserved_count=0).attach([replace(first, join="none"), first])
    data.setup("fit")
    run = session(tiny_model("llama"))
    run.prepare(data)
    asked: list[Any] = []
    grade = run_measuring.grade
    monkeypatch.setattr(run_measuring, "grade", lambda decoder, items: (asked.extend(items), grade(decoder, items))[1])
    for data.cursor, join in enumerate(("none", "auto")):
        asked.clear()
        run.validate(data.validation_items())
        assert {question.item.join for question in asked if question.item.aspect == "efficacy"} == {join}
    run.validate([("efficacy", "The sky is", "blue")])
    assert asked[-1].item.join == "auto"


def test_the_report_says_which_iteration_was_committed_and_what_each_scored() -> None:
    run, data = session(tiny_model("llama")), EditDataModule(batch_size=4, preserved_count=0)
    data.attach(requests_from_records(records())).setup("fit")
    run.prepare(data)
    committed = drive(run, data, data.validation_items)
    for batch, iteration in zip(run.report.batches, committed, strict=True):
        assert batch["committed_iteration"] == iteration
        assert len(batch["candidates"]) == batch["smoothing_iterations"]
        assert batch["candidates"][iteration]["probability"] == batch["validation_probability"]
        assert batch["candidates"][iteration]["score"] == batch["validation_score"]
        best = max(candidate["probability"] for candidate in batch["candidates"])
        assert batch["validation_probability"] == pytest.approx(best, abs=1e-3)
    assert run.report.edits_done == run.report.edits == 7


@pytest.mark.parametrize(("prior", "warned"), [("resolve", True), ("conflict", False)])
def test_edits_that_may_be_rewrites_are_named_once(prior: str, warned: bool) -> None:
    other = {"prompt": "{} has as its seat", "subject": SUBJECTS[0], "target_new": TARGETS[1]}
    requests = requests_from_records([*records()[:3], other, {**other, "target_new": TARGETS[2]}])
    method, targets, preserved = learning_options("alphaedit_plus")
    method = replace(method, prior=prior)
    run = EditSession(tiny_model("gpt2"), tokenizer(), LEARNING["layers"], method, targets, preserved)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.prepare(ListStream(requests, 3))
    question = other["prompt"].format(SUBJECTS[0])
    text = (
        "2 edits have the subject of an edit of an earlier batch, another answer and no 'fact' in common (such as "
        f"'{question} {TARGETS[1]}' after 'The capital of {SUBJECTS[0]} {TARGETS[0]}'): method.prior: resolve takes "
        "them for different facts and keeps the earlier answers; where they ask for one fact, give both the same 'fact'"
    )
    assert [str(w.message) for w in caught if "subject" in str(w.message)] == [text] * warned


@pytest.mark.parametrize(("size", "said"), [(1, 1), (2, 1), (3, 0)])
def test_a_batch_of_one_is_named_once_wherever_it_is(size: int, said: int) -> None:
    run = session(tiny_model("gpt2"))
    run.prepare(data := ListStream(requests_from_records(records())[:3], size))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drive(run, data)
    assert sum("batches of one edit are not smoothed" in str(w.message) for w in caught) == said


def test_batches_of_one_say_that_they_are_not_smoothed_or_smooth_by_a_threshold() -> None:
    requests = requests_from_records(records())[:2]
    run = session(tiny_model("gpt2"))
    run.prepare(data := ListStream(requests, 1))
    with pytest.warns(UserWarning, match="batches of one edit are not smoothed, .* set method.smoothing_threshold"):
        assert drive(run, data) == [0, 0]
    method, targets, preserved = learning_options("alphaedit_plus")
    by_number = replace(method, smoothing_threshold=0.0)
    run = EditSession(tiny_model("gpt2"), tokenizer(), LEARNING["layers"], by_number, targets, preserved)
    run.prepare(data := ListStream(requests, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert drive(run, data) == [2, 2]


def test_a_rollback_leaves_the_model_as_the_batch_found_it() -> None:
    model = tiny_model("llama")
    run, data = session(model), ListStream(requests_from_records(records()), 4)
    run.prepare(data)
    run.begin()
    run.candidate()
    run.settle(None)
    run.settle(None)
    run.commit()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    run.begin()
    run.candidate()
    assert run.in_batch
    assert run.iteration == 0
    assert any(not torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    run.rollback()
    run.rollback()
    assert not run.in_batch
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert len(run.entries) == 1


def test_a_commit_that_fails_leaves_the_model_as_the_batch_found_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    run, data = session(model), ListStream(requests_from_records(records()), 4)
    run.prepare(data)
    run.begin()
    run.candidate()
    propose = run.batch.editor.propose

    def broken(iteration: int) -> Any:
        propose(iteration)
        raise MemoryError

    monkeypatch.setattr(run.batch.editor, "propose", broken)
    with pytest.raises(MemoryError):
        run.commit()
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_contexts_are_sampled_once_from_the_unedited_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    sample = run_editable.sample_contexts
    monkeypatch.setattr(run_editable, "sample_contexts", lambda *some: (asked.append(1), sample(*some))[1])
    run, data = session(tiny_model("llama")), ListStream(requests_from_records(records()), 4)
    run.prepare(data)
    run.begin()
    run.candidate()
    run.prepare(data)  # as Lightning does before each validation
    assert asked == [1]


def test_finish_measures_once_until_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = session(tiny_model("llama"), "alphaedit"), ListStream(requests_from_records(records()), 4)
    run.prepare(data)
    asked: list[int] = []
    score = run.measuring.score
    monkeypatch.setattr(run.measuring, "score", lambda requests: (asked.append(len(requests)), score(requests))[1])
    run.finish()
    assert run.report.after == run.report.before  # nothing was edited
    assert run.report.leakage is None
    run.finish()
    assert asked == [7]
    drive(run, data)
    run.finish()
    run.finish()
    assert asked == [7, 7]
    assert run.report.after != run.report.before
    assert run.report.leakage is not None


@pytest.mark.parametrize(
    ("method", "called"),
    [
        (Method(filter="covariance", relax="none", prior="none", smooth=False), "own"),
        (named_method("alphaedit_plus"), "alphaedit_plus"),
        (named_method("alphaedit_plus", relax="none", smooth=True), "alphaedit_plus:relax=none:smooth=true"),
        (named_method("alphaedit_plus", selection="highest"), "alphaedit_plus"),
        (replace(named_method("alphaedit"), name="mine", relax="aligned"), "mine"),
        (
            replace(named_method("alphaedit"), name="alphaedit:relax=aligned", relax="aligned"),
            "alphaedit:relax=aligned",
        ),
        (named_method("alphaedit", prior_strength=5.0), "alphaedit"),
    ],
)
def test_a_run_is_not_reported_as_a_method_whose_switches_are_others(method: Method, called: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if method.prior_strength == 5.0 else "error")
        assert EditSession(tiny_model("gpt2"), tokenizer(), [1], method).report.method == called
    settings = EditModule("tiny", [1], method).settings["method"]
    assert (settings["name"], settings["relax"]) == (called, method.relax)


def test_a_beta_that_the_method_fixes_is_reported_when_another_is_set() -> None:
    text = r"method.prior_strength is 5.0, where alphaedit fixes 1.0, and 5.0 is used; to have 1.0, leave it out"
    with pytest.warns(UserWarning, match=text):
        EditSession(tiny_model("gpt2"), tokenizer(), [1], named_method("alphaedit", prior_strength=5.0))
    with pytest.warns(UserWarning, match=r"is 5.0, where alphaedit_plus \(the default method\) fixes 10.0, and 5.0 is"):
        EditSession(tiny_model("gpt2"), tokenizer(), [1], named_method("alphaedit_plus", prior_strength=5.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EditSession(tiny_model("gpt2"), tokenizer(), [1], named_method("alphaedit_plus_paper", prior_strength=5.0))


@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"])
def test_weights_that_are_not_finite_are_refused_before_the_work(name: str) -> None:
    model = tiny_model("llama")
    run, data = session(model), ListStream(requests_from_records(records()), 4)
    with torch.no_grad():
        model.get_parameter(name)[0, 0] = torch.nan
    with pytest.raises(InputError, match=rf"expected finite weights, got NaN or infinity in {name}; load another"):
        run.prepare(data, editing=False)


def test_steps_out_of_order_are_refused() -> None:
    model = tiny_model("llama")
    run, data = session(model), ListStream(requests_from_records(records()), 4)
    with pytest.raises(InputError, match=r"expected a session that is prepared for editing, got one that is not"):
        run.begin()
    for step in (run.finish, lambda: run.validate([("efficacy", "The sky is", "blue")]), lambda: run.data.cursor):
        with pytest.raises(InputError, match=r"^expected a session that is prepared, got one that is not; call prep"):
            step()
    with pytest.raises(InputError, match=r"expected a session that is prepared for editing, got one that is not"):
        _ = run.statistics
    run.rollback()
    with pytest.raises(InputError, match=r'expected edits, got none; call setup\("fit"\) of the data first'):
        run.prepare(ListStream([], 4))
    run.prepare(data, editing=False)
    with pytest.raises(InputError, match=r"expected a session that is prepared for editing, got one that is not"):
        run.begin()
    assert run.finish().leakage is None
    run.prepare(data)  # measured before, to be edited now
    with pytest.raises(InputError, match=r"expected a batch under way, got none; call begin\(\) first"):
        run.candidate()
    run.begin()
    for step in (lambda: run.settle(None), run.commit):
        with pytest.raises(InputError, match=r"expected a candidate in the model, got none yet; call candidate\(\)"):
            step()
    run.candidate()
    with pytest.raises(InputError, match=r"expected no batch under way, got one at iteration 0; commit it or roll"):
        run.begin()
    run.rollback()
    drive(run, data)
    with pytest.raises(InputError, match=r"expected a batch to edit, got the end of the edits"):
        run.begin()
    other = ListStream(data.requests, 4)
    with pytest.raises(InputError, match=r"expected the edits that this run began with, got others; make a new"):
        run.prepare(other)


def test_statistics_and_checkpoints_need_the_unedited_model() -> None:
    run, data = session(tiny_model("llama")), ListStream(requests_from_records(records()), 4)
    run.prepare(data)
    drive(run, data)
    resume: Any = object()
    with pytest.raises(InputError, match=r"expected an unedited model, got one with 2 batches of this run; load it"):
        run.prepare(data, resume=resume)


def test_an_unknown_dtype_of_the_edited_weights_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected edited_dtype same or float32, got 'Float32'; choose one of these"):
        session(tiny_model("llama"), edited_dtype="Float32")
