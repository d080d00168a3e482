"""How often the edits so far are measured for the logger."""

from typing import Any

import pytest

import aeplus
import aeplus.run.measuring as measuring
from aeplus.callbacks import MetricsWriter
from aeplus.errors import InputError
from small import SMALL, SUBJECTS
from tiny import tiny_model, tiny_tokenizer

TEMPLATES = ["The capital of {}", "In the city of {}", "People of {}", "The language of {}", "Long ago in {}", "{}"]


def asked(monkeypatch: pytest.MonkeyPatch, edits: int, batch_size: int, *callbacks: Any) -> list[int]:
    """The prompts that each measurement of a run asks, from the first batch to the last."""
    counts: list[int] = []
    original = measuring.evaluate

    def evaluate(decoder: Any, questions: list[Any]) -> Any:
        counts.append(len(questions))
        return original(decoder, questions)

    monkeypatch.setattr(measuring, "evaluate", evaluate)
    pairs = [(prompt, subject) for prompt in TEMPLATES for subject in SUBJECTS][:edits]
    records = [{"prompt": prompt, "subject": subject, "target_new": "Paris"} for prompt, subject in pairs]
    options: dict[str, Any] = {**SMALL, "steps": 1, "contexts": 0, "threshold": 0.5, "threshold_kind": "dimensions"}
    model = tiny_model(num_hidden_layers=3)
    result = aeplus.edit(
        model, tiny_tokenizer(), records, "alphaedit", batch_size=batch_size, callbacks=callbacks, **options
    )
    result.undo()
    assert (counts[0], counts[-1]) == (edits, edits)
    return counts[1:-1]


def test_ever_more_edits_are_measured_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = asked(monkeypatch, 40, 1, MetricsWriter())
    assert counts == [*range(1, 12), 13, 15, 17, 19, 21, 24, 27, 30, 33, 37, 40]
    assert sum(counts) <= 11 * counts[-1]


def test_every_batch_of_a_short_run_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, 28, 3, MetricsWriter()) == [3, 6, 9, 12, 15, 18, 21, 24, 27, 28]


@pytest.mark.parametrize(("every", "counts"), [(0, []), (1, [1, 2, 3, 4]), (3, [3])])
def test_every_so_many_batches(monkeypatch: pytest.MonkeyPatch, every: int, counts: list[int]) -> None:
    assert asked(monkeypatch, 4, 1, MetricsWriter(evaluate_every=every)) == counts


def test_other_words_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        MetricsWriter(evaluate_every="always")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "expected MetricsWriter.evaluate_every to be a number of batches or growing, got 'always'; choose one of these."
    )
