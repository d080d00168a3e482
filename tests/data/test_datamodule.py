import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from aeplus.data import datamodule
from aeplus.data.datamodule import EditDataModule
from aeplus.data.readability import ModelLimits
from aeplus.data.scoring import ValidationPrompt, validation_items
from aeplus.data.validation import ValidationItem, ValidationSet
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError
from small import SMALL
from tiny import tiny_tokenizer

NAMES = [f"Town{i}" for i in range(8)]
EDITS = [
    EditRequest("The mayor of {} is", name, f"Ann {i}", (f"{name} is led by",), (Probe(f"Who rules {i}? It is", None),))
    for i, name in enumerate(NAMES)
]


def module(edits: list[EditRequest], **options: int) -> EditDataModule:
    data = EditDataModule(batch_size=3, preserved_count=0, **options).attach(edits)
    data.setup("fit")
    return data


def test_batches_in_order_and_the_last_is_smaller() -> None:
    data = module(EDITS)
    seen = []
    while not data.exhausted:
        (batch,) = data.train_dataloader()
        seen.append([edit.subject for edit in batch])
        data.cursor += len(batch)
    assert seen == [NAMES[:3], NAMES[3:6], NAMES[6:]]


def validation_of(edits: list[EditRequest]) -> list[list[ValidationPrompt]]:
    data = module(edits)
    items = []
    for cursor in (0, 3, 6):
        data.cursor = cursor
        items.append(data.validation_items())
    return items


def test_preserved_facts_are_joined_as_they_say(tmp_path: Path) -> None:
    facts = [{"prompt": "The mayor of {} is", "subject": name, "target_new": "Bob"} for name in ("Rome", "Oslo")]
    (tmp_path / "facts.jsonl").write_text(
        "".join(json.dumps(f) + "\n" for f in [{**facts[0], "join": "space"}, facts[1]])
    )
    for join, expected in (("none", {"Rome": "space", "Oslo": "none"}), ("auto", {"Rome": "space", "Oslo": "auto"})):
        data = EditDataModule(preserved=str(tmp_path / "facts.jsonl"), join=join).attach(EDITS)  # type: ignore[arg-type]
        data.setup("fit")
        asked = {name: probe for probe in data.validation.preserved for name in expected if name in probe.prompt}
        assert {name: data.validation.preserved_join(probe) for name, probe in asked.items()} == expected


def test_no_test_prompt_reaches_validation() -> None:
    changed = [replace(e, rephrase=("garbage",), neighborhood=(Probe("nonsense"),), target_true="no") for e in EDITS]
    items = validation_of(EDITS)
    assert items == validation_of(changed)
    tests = {p for e in EDITS for p in (*e.rephrase, *(n.prompt for n in e.neighborhood), e.question)}
    assert not tests & {item.prompt for batch in items for item in batch}
    leaking = [replace(e, prompt="{} is led by", rephrase=()) for e in EDITS]  # the comparison can fail
    assert items != validation_of(leaking)


def test_what_is_asked_is_found_once_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    data, found = module(EDITS), []
    monkeypatch.setattr(
        datamodule, "validation_items", lambda *arguments: found.append(1) or validation_items(*arguments)
    )
    first = data.validation_items()
    assert data.validation_items() == first
    assert len(found) == 1
    data.cursor = 3
    assert data.validation_items() != first
    data.cursor = 0
    assert data.validation_items() == first
    assert len(found) == 3


def test_every_edit_of_the_batch_is_asked_and_previous_ones_stay() -> None:
    first, second, _ = validation_of(EDITS)
    asked = [item.answer for item in second if item.aspect == "efficacy"]
    assert asked == ["Ann 3", "Ann 4", "Ann 5"]
    previous = {item.answer for item in first if item.aspect == "generalization"}
    assert previous < {item.answer for item in second if item.aspect == "generalization"}


def test_earlier_batches_are_asked_by_a_bounded_sample() -> None:
    whole, bounded = module(EDITS), module(EDITS, validation_earlier=3)
    for cursor in (0, 3, 6):
        whole.cursor = bounded.cursor = cursor
        every, some = whole.validation_items(), bounded.validation_items()
        early = {edit.target_new for edit in EDITS[:cursor]}
        asked = [item for item in every if item[0] == "generalization" and item[2] in early]
        assert len([item for item in some if item[0] == "generalization" and item[2] in early]) == min(3, len(asked))
        assert [item for item in some if item not in asked] == [item for item in every if item not in asked]
        assert some == bounded.validation_items()  # the same for every candidate of a batch
    assert len(asked) > 3
    with pytest.raises(
        InputError, match=r"expected data.validation_earlier to be at least 0, got -1; choose a larger number"
    ):
        module(EDITS, validation_earlier=-1)


def test_rewritten_edits_are_not_asked() -> None:
    again = [*EDITS[:3], replace(EDITS[0], target_new="Bob", prompt="The head of {} is", fact="f")]
    again[0] = replace(again[0], fact="f")
    data = module(again)
    data.cursor = 3
    assert "Ann 0" not in {item.answer for item in data.validation_items()}


def test_an_edit_repeated_with_the_same_answer_is_asked_again() -> None:
    repeated = [*EDITS[:3], EDITS[0]]
    data = module(repeated)
    data.validation = ValidationSet((), (), {i: ValidationItem(i, f"asks {i}", "x") for i in range(4)})
    assert [item.prompt for item in data.validation_items()] == ["asks 0", "asks 1", "asks 2"]
    data.cursor = 3
    assert [item.prompt for item in data.validation_items()] == ["asks 3"]
    data.validation = ValidationSet(tuple(data.validation.firsts.values()), ())
    assert [item.prompt for item in data.validation_items()] == ["asks 0", "asks 1", "asks 2", "asks 3"]


def test_every_validation_prompt_is_joined_as_its_edit_though_another_of_the_fact_is_joined_otherwise() -> None:
    edits = [replace(EDITS[0], join="none"), EDITS[0]]
    data = EditDataModule(batch_size=1, preserved_count=0).attach(edits)
    data.setup("fit")
    data.adapt(ModelLimits(tiny_tokenizer()), "")
    joins = []
    for data.cursor in (0, 1):
        joins.append({item.join for item in data.validation_items() if item.aspect == "efficacy"})
    assert joins == [{"none"}, {"auto"}]
    assert {item.join for item in data.validation_items()} == {"none", "auto"}


def test_beginnings_of_text_come_with_the_model_whatever_the_trainer_holds() -> None:
    data = EditDataModule(preserved_count=2).attach(EDITS)
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(options={"preserved": object()}))  # type: ignore[assignment]
    data.setup("fit")
    assert data.validation.preserved == ()
    data.adapt(ModelLimits(tiny_tokenizer()), SMALL["corpus"])
    assert len(data.validation.preserved) == 2


def test_a_colliding_test_prompt_is_left_out_of_the_figures() -> None:
    data = module(EDITS)
    (collides,) = {item.prompt for item in data.validation.rewrites if item.request_index < 3 and item.prompt} - {
        item.prompt for item in data.validation.rewrites[1:]
    }
    edits = [replace(EDITS[0], rephrase=(collides.upper(),)), *EDITS[1:]]
    assert module(edits).overlap == {collides.upper()}


def test_neighbors_come_from_records_that_are_not_edited(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    records = [{"prompt": "The mayor of {} is", "subject": n, "target_new": "Ann"} for n in NAMES]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    data = EditDataModule(str(path), limit=3, neighbors=4, preserved_count=0)
    data.setup("fit")
    found = {probe.prompt for edit in data.requests for probe in edit.neighborhood}
    assert found <= {f"The mayor of {name} is" for name in NAMES[3:]}
    assert all(len(edit.neighborhood) == 4 for edit in data.requests)


def test_cases_that_go_on_behind_others_of_the_same_name_stay_apart() -> None:
    def named(edits: list[EditRequest], *names: str) -> list[EditRequest]:
        return [replace(edit, case=name) for edit, name in zip(edits, names, strict=True)]

    earlier, new = named(EDITS[:3], "1", "1", ""), named(EDITS[3:], "1", "1", "2", "3", "")
    made = ["1+", "1+", "2", "3", ""]
    for done in (0, 1, 3, 5):  # stopped and taken up again, in the middle of a case too
        data = EditDataModule(batch_size=3, preserved_count=0).attach(new)
        data.follow([*earlier, *named(EDITS[3 : 3 + done], *made[:done])])
        assert [edit.case for edit in data.requests] == ["1", "1", "", *made]


def test_edits_that_are_made_again_are_counted() -> None:
    undone = [(5, edit) for edit in EDITS[3:6]]
    with pytest.warns(UserWarning, match="data's edits 4 in the model already, 3 taken out by entry 5: they are made"):
        EditDataModule(preserved_count=0).attach(EDITS[:7]).follow([*EDITS[:3], EDITS[6]], undone)
    with pytest.warns(UserWarning, match="of the data's edits 1 taken out by entry 5: they are made again"):
        EditDataModule(preserved_count=0).attach(EDITS[:4]).follow(EDITS[:3], undone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a stream may make an edit twice
        EditDataModule(preserved_count=0).attach([*EDITS[:3], EDITS[0], EDITS[7]]).follow(EDITS[:3], undone)


def test_what_is_measured_counts_once() -> None:
    data = EditDataModule(preserved_count=0).attach(EDITS[:4])
    with pytest.warns(UserWarning, match="of the edits measured 1 taken out by entry 5, and are not in the model"):
        data.include([EDITS[0], EDITS[5], EDITS[2]], [(5, EDITS[1]), (5, EDITS[5])])
    data.adapt(ModelLimits(tiny_tokenizer()), SMALL["corpus"])
    assert (data.requests, data.cursor) == ([EDITS[0], EDITS[5], EDITS[2], EDITS[1], EDITS[3]], 3)


def test_no_edits_at_all() -> None:
    with pytest.raises(InputError, match="expected at least one edit, got an empty list"):
        module([])
    with pytest.raises(InputError, match=r"expected edits, got no data\.path; pass a file"):
        EditDataModule().setup("fit")


def test_validation_can_be_turned_off() -> None:
    assert module(EDITS, validation_share=0).validation == ValidationSet((), ())


def test_a_rewritten_text_gives_new_beginnings(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    found = []
    for word in ("cat", "horse"):
        text.write_text(" ".join([word] * 20) + ".\n")
        data = EditDataModule(snippet_corpus=str(text), preserved_count=1)
        data.attach([EditRequest("The capital of {} is", "France", "Rome")]).setup("fit")
        found += [probe.prompt.split()[0] for probe in data.validation.preserved]
    assert found == ["cat", "horse"]
