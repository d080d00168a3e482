"""Base model and journal are the edited model; what is damaged is named; every edit can be taken out again."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import aeplus
from aeplus.callbacks import EditCallback
from aeplus.commands.main import main
from aeplus.data.manifest import write_validation
from aeplus.data.paraphrase import Rewriter
from aeplus.data.readers import requests_from_records
from aeplus.data.validation import compose_validation
from aeplus.errors import InputError
from aeplus.journal import Journal
from aeplus.journal.undo import _choose_alike
from aeplus.models.loading import load_model
from aeplus.run.selection import Best, Converge, Decision, SelectionOptions
from journals import METHODS, fit
from small import LEARNING, records
from tiny import tiny_model, tiny_tokenizer

Base = Callable[[], tuple[Any, Any]]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(model: Any, expected: dict[str, torch.Tensor]) -> bool:
    state = model.state_dict()
    return all(torch.equal(state[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("method", METHODS)
def test_base_and_journal_are_the_edited_model(runs: Callable[[str], Path], base: Base, method: str) -> None:
    run, (model, _) = runs(method), base()
    edited = load_file(run / "model" / "model.safetensors")
    assert not equal(model, edited)
    assert Journal.open(run).apply(model)
    assert equal(model, edited)


def test_the_checkpoint_points_at_the_journal(runs: Callable[[str], Path]) -> None:
    run = runs("alphaedit_plus")
    content = torch.load(run / "checkpoints" / "3-batches.ckpt", weights_only=True)
    assert not content["state_dict"]
    assert content["aeplus"]["records"] == 3
    assert content["aeplus"]["head"] == Journal.open(run).chain.head


def test_the_log_says_what_was_edited(runs: Callable[[str], Path]) -> None:
    run = runs("alphaedit_plus")
    lines = Journal.open(run).log()
    assert [(line.number, line.kind, line.edits, line.active) for line in lines] == [
        (1, "batch", 3, 3),
        (2, "batch", 3, 3),
        (3, "batch", 1, 1),
    ]
    scores = [batch["validation_score"] for batch in json.loads((run / "metrics.json").read_text())["batches"]]
    assert [line.score for line in lines] == scores
    content = Journal.open(run).show(2)
    assert [edit["subject"] for edit in content["edits"]] == [record["subject"] for record in records()[3:6]]
    assert content["settings"]["model"]["method"]["ridge"] == 0.01
    assert content["weights"]["before"] == Journal.open(run).show(1)["weights"]["after"]
    with pytest.raises(InputError, match=r"expected an entry from 1 to 3 of the journal, got 4; aeplus log lists them"):
        Journal.open(run).show(4)


def test_a_journal_has_no_way_of_writing_but_undo() -> None:
    reading = {"open", "log", "show", "verify", "apply", "folder", "active", "entries", "record", "weights"}
    assert {name for name in dir(Journal) if not name.startswith("_")} == {"undo", *reading}


# ---- damage


def test_any_flipped_bit_is_found_and_named(run: Path) -> None:
    draw = random.Random(0)
    files = sorted((run / "journal").glob("*.json")) + sorted((run / "journal").glob("*.safetensors"))
    assert len(files) == 7
    Journal.open(run).verify()
    for file in files:
        whole = file.read_bytes()
        for _ in range(12):
            content = bytearray(whole)
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(7)
            file.write_bytes(content)
            name = "the header" if file.name == "journal.json" else f"record {int(file.stem)}"
            with pytest.raises(InputError, match=rf"expected {name} of the journal as it was written, got a damaged"):
                Journal.open(run).verify()
        file.write_bytes(whole)
    Journal.open(run).verify()


def test_what_was_read_before_is_read_again(run: Path) -> None:
    journal = Journal.open(run)
    journal.chain.entry(journal.chain.records[0])
    file = sorted((run / "journal").glob("*.safetensors"))[0]
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="got a damaged"):
        journal.verify()


def test_the_same_values_in_other_letters_are_a_changed_file(run: Path) -> None:
    file = run / "journal" / "000002.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    with pytest.raises(InputError, match=r"damaged .*000002.json \(its digest differs\)"):
        Journal.open(run)


def test_records_cannot_be_dropped_exchanged_or_taken_from_elsewhere(run: Path) -> None:
    folder = run / "journal"
    copy = shutil.copytree(folder, run / "copy")
    (folder / "000002.json").unlink()
    with pytest.raises(InputError, match=r"expected record 2 in .*, got none before record 3; restore a copy"):
        Journal.open(run)
    shutil.copy(copy / "000003.json", folder / "000002.json")
    with pytest.raises(InputError, match=r"damaged .*000002.json \(it does not continue the one before\)"):
        Journal.open(run)
    shutil.copy(copy / "000002.json", folder / "000002.json")
    shutil.copy(copy / "000001.safetensors", folder / "000002.safetensors")
    with pytest.raises(InputError, match=r"record 2 .*000002.safetensors \(its tensors are those of another\)"):
        Journal.open(run).verify()
    (folder / "000002.safetensors").unlink()
    with pytest.raises(InputError, match=r"record 2 .*000002.safetensors \(there is no such file\)"):
        Journal.open(run).verify()


def test_a_damaged_journal_leaves_the_model_alone(run: Path, base: Base) -> None:
    model, _ = base()
    before = weights(model)
    (run / "journal" / "000003.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="record 3"):
        Journal.open(run).apply(model)
    assert equal(model, before)


def test_another_model_is_refused(runs: Callable[[str], Path], base: Base) -> None:
    run, (model, _) = runs("alphaedit_plus"), base()
    Journal.open(run).verify(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    before = weights(model)
    for verb in (Journal.open(run).verify, Journal.open(run).apply):
        with pytest.raises(
            InputError, match=r"expected .*/model unedited, as the journal .* was made with, got a model"
        ):
            verb(model)
    with pytest.raises(InputError, match="got a model of other weights"):
        Journal.open(run).verify(tiny_model("gpt2", n_layer=1))
    assert equal(model, before)


# ---- undo


@pytest.mark.parametrize("method", METHODS)
def test_undoing_everything_in_any_order_gives_the_base_model(
    runs: Callable[[str], Path], tmp_path: Path, base: Base, method: str
) -> None:
    run = shutil.copytree(runs(method), tmp_path / "run")
    model, tokenizer = base()
    before = weights(model)
    if method == "prune":  # the last batch corrects the sum of all
        with pytest.raises(
            InputError, match=r"no later one builds on, got entry 2, on which entry 3 by prune builds; tak"
        ):
            Journal.open(run).undo(2, model=model, tokenizer=tokenizer)
        assert equal(model, before)
    for number in (3, 2, 1) if method == "prune" else (2, 1, 3):
        model, tokenizer = base()
        undone = Journal.open(run).undo(number, model=model, tokenizer=tokenizer)
        fresh, _ = base()
        assert Journal.open(run).apply(fresh)
        assert equal(model, weights(fresh))
    assert undone.number == 6
    assert equal(model, before)
    assert [line.active for line in Journal.open(run).log()] == [0] * 6
    Journal.open(run).verify()


def test_the_model_that_is_given_stays_as_it_is_set_up(run: Path, base: Base) -> None:
    model, tokenizer = base()
    model.requires_grad_(True).train()
    model.model.layers[0].eval()
    model.model.embed_tokens.requires_grad_(False)
    before = modes(model)
    journal = Journal.open(run)
    journal.undo(2, model=model, tokenizer=tokenizer)
    assert modes(model) == before
    with pytest.raises(InputError):
        journal.undo(9, model=model, tokenizer=tokenizer)
    assert modes(model) == before


def modes(model: Any) -> list[bool]:
    """Whether each module trains, and each parameter requires a gradient."""
    return [module.training for module in model.modules()] + [p.requires_grad for p in model.parameters()]


def test_subtracting_leaves_exactly_the_others(run: Path, base: Base) -> None:
    journal, (model, tokenizer) = Journal.open(run), base()
    first, _, third = journal.entries()
    undone = journal.undo(2, model=model, tokenizer=tokenizer)
    expected, _ = base()
    for entry in (first, third):
        for site in aeplus_sites(expected, entry):
            site.add(entry.updates[site.layer])
    assert equal(model, weights(expected))
    assert undone.edits == 3
    assert undone.replayed == 0
    assert undone.removed[0]["efficacy"] is not None
    assert undone.others[0]["efficacy"] is not None
    assert undone.removed[1]["efficacy"] <= undone.removed[0]["efficacy"]


def aeplus_sites(model: Any, entry: Any) -> Any:
    from aeplus.models.decoder import Decoder

    return Decoder(model).select(list(entry.updates))


def test_one_edit_of_a_batch(run: Path, base: Base) -> None:
    journal, (model, tokenizer) = Journal.open(run), base()
    second = journal.entries()[1]
    assert journal.undo(2, edit=3, model=model, tokenizer=tokenizer).edits == 1
    entries = Journal.open(run).entries()
    assert [len(entry.edits) for entry in entries] == [3, 2, 1]
    for layer, update in second.updates.items():
        part = torch.outer(update.left[:, 2], update.right[2])
        torch.testing.assert_close(entries[1].updates[layer].dense(), update.dense() - part)
    again = base()[0]
    assert Journal.open(run).apply(again)
    with pytest.raises(
        InputError, match=r"expected an edit of entry 2 that is in the model \(1, 2\), got 3; see aeplus"
    ):
        Journal.open(run).undo(2, edit=3, model=again, tokenizer=tokenizer)
    model, _ = base()
    Journal.open(run).undo(2, model=model, tokenizer=tokenizer)
    assert [len(entry.edits) for entry in Journal.open(run).entries()] == [3, 1]


def test_one_edit_of_a_batch_that_was_solved_as_a_whole(
    runs: Callable[[str], Path], tmp_path: Path, base: Base
) -> None:
    run, (model, tokenizer) = shutil.copytree(runs("kde"), tmp_path / "run"), base()
    before = weights(model)
    with pytest.raises(InputError, match=r"got entry 1, which kde has solved as a whole; take all of it out, or use"):
        Journal.open(run).undo(1, edit=1, model=model, tokenizer=tokenizer)
    assert equal(model, before)
    assert len(Journal.open(run).chain.records) == 3


def test_a_checkpoint_takes_out_its_own_run_s_edits_only(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = (workplace / "edits.jsonl").read_text().splitlines(keepends=True)
    for name, lines in (("first", edits[:4]), ("then", edits[4:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    kept = f"--model.journal={tmp_path}/kept"
    first = fit(workplace, tmp_path, "alphaedit_plus", f"--data.path={tmp_path}/first.jsonl", kept)
    again = ["fit", f"--config={first}/config.yaml", f"--ckpt_path={first}/checkpoints/1-batches.ckpt"]
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.warns(
            UserWarning, match="kept has 1 edit of this run behind those of the checkpoint: what is made"
        ):
            assert main(again) == 0
    fit(workplace, tmp_path, "alphaedit_plus", f"--data.path={tmp_path}/then.jsonl", kept)
    assert main(again) == 2
    assert "expected no edits of another run behind those of the checkpoint in the journal" in capsys.readouterr().err
    assert [line.active for line in Journal.open(tmp_path / "kept").log() if line.active] == [3, 1, 3]


def test_replaying_is_the_run_without_the_batch(run: Path, base: Base, workplace: Path, tmp_path: Path) -> None:
    model, tokenizer = base()
    undone = Journal.open(run).undo(1, mode="replay", model=model, tokenizer=tokenizer)
    assert (undone.edits, undone.replayed) == (3, 2)
    edits = (workplace / "edits.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rest.jsonl").write_text("".join(edits[3:]))
    other = fit(workplace, tmp_path, "alphaedit_plus", f"--data.path={tmp_path}/rest.jsonl")
    assert equal(model, load_file(other / "model" / "model.safetensors"))
    fresh, _ = base()
    assert Journal.open(run).apply(fresh)
    assert equal(fresh, weights(model))
    lines = [(line.number, line.kind, line.active) for line in Journal.open(run).log()]
    assert lines == [
        *((number, "batch", 0) for number in (1, 2, 3)),
        *((4, "replayed", 3), (5, "replayed", 1), (6, "undo", 0)),
    ]


def test_replaying_the_last_batch_and_one_edit(run: Path, base: Base) -> None:
    model, tokenizer = base()
    assert Journal.open(run).undo(3, mode="replay", model=model, tokenizer=tokenizer).replayed == 0
    expected = base()[0]
    Journal.open(run).apply(expected)
    assert equal(model, weights(expected))
    assert Journal.open(run).undo(2, edit=1, mode="replay", model=base()[0], tokenizer=tokenizer).replayed == 1
    assert [len(entry.edits) for entry in Journal.open(run).entries()] == [3, 2]


def test_a_replay_that_is_killed_changes_nothing(run: Path, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    from aeplus.run.committed.chain import Chain

    (model, tokenizer), append = base(), Chain.append
    before, held = weights(model), Journal.open(run).weights

    def killed(self: Chain, kind: str, *rest: Any) -> Any:
        if kind == "undo":
            raise KeyboardInterrupt
        return append(self, kind, *rest)

    monkeypatch.setattr(Chain, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        Journal.open(run).undo(1, mode="replay", model=model, tokenizer=tokenizer)
    monkeypatch.undo()
    assert equal(model, before)
    journal = Journal.open(run)
    assert [line.active for line in journal.log()] == [3, 3, 1, 0, 0]
    assert journal.weights == held
    assert journal.undo(1, mode="replay", model=model, tokenizer=tokenizer).number == 8


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0, None), "expected an entry from 1 to 4 of the journal, got 0"),
        ((4, None), "expected a batch of the journal that is in the model, got entry 4, an undo; see aeplus log"),
        ((2, None), "got entry 2, one whose edits are not in the model; see aeplus log"),
        ((3, 1), "expected a range of entries from its first to its last, got an empty one; write it like 2-4"),
    ],
)
def test_what_cannot_be_taken_out(run: Path, base: Base, numbers: tuple[int, int | None], text: str) -> None:
    model, tokenizer = base()
    Journal.open(run).undo(2, model=model, tokenizer=tokenizer)
    model, _ = base()
    with pytest.raises(InputError, match=text):
        Journal.open(run).undo(*numbers, model=model, tokenizer=tokenizer)


# ---- from Python


OPTIONS = {**LEARNING, "batch_size": 3, "smooth": True, "smoothing_steps": 2}


def test_edit_keeps_a_journal_and_goes_on_with_it(tmp_path: Path) -> None:
    tokenizer, folder = tiny_tokenizer(), tmp_path / "kept"
    whole = tiny_model("llama")
    aeplus.edit(whole, tokenizer, records(), journal=tmp_path / "whole", **OPTIONS)
    model = tiny_model("llama")
    aeplus.edit(model, tokenizer, records()[:3], journal=folder, **OPTIONS)
    model = tiny_model("llama")
    result = aeplus.edit(model, tokenizer, records()[3:], journal=folder, **OPTIONS)
    assert len(result.updates) == 2
    assert result.metrics["edits_done"] == 7
    assert equal(model, weights(whole))
    assert aeplus.Journal.open(folder).weights == aeplus.Journal.open(tmp_path / "whole").weights
    # The same edits again: they are made already.
    model = tiny_model("llama")
    again = aeplus.edit(model, tokenizer, records()[3:], journal=folder, **OPTIONS)
    assert not again.updates
    assert equal(model, weights(whole))
    with pytest.raises(
        InputError, match="with a journal, got one with the edits of 1 call; undo them first, or load the model again"
    ):
        aeplus.edit(model, tokenizer, records()[:1], journal=folder, **OPTIONS)


def test_undoing_a_call_takes_its_batches_out_of_the_journal(tmp_path: Path) -> None:
    tokenizer, folder = tiny_tokenizer(), tmp_path / "kept"
    aeplus.edit(tiny_model("llama"), tokenizer, records()[:3], journal=folder, **OPTIONS)
    held = aeplus.Journal.open(folder).weights
    result = aeplus.edit(tiny_model("llama"), tokenizer, records()[3:], journal=folder, **OPTIONS)
    result.undo()
    result.undo()
    journal = aeplus.Journal.open(folder)
    assert [line.active for line in journal.log()] == [3, 0, 0, 0]
    assert journal.weights == held


def test_half_precision_edited_in_float32(tmp_path: Path) -> None:
    model = tiny_model("llama").bfloat16()
    folder = tmp_path / "kept"
    aeplus.edit(model, tiny_tokenizer(), records()[:3], journal=folder, edited_dtype="float32", **OPTIONS)
    fresh = tiny_model("llama").bfloat16()
    before = weights(fresh)
    assert aeplus.Journal.open(folder).apply(fresh)
    assert equal(fresh, weights(model))
    fresh = tiny_model("llama").bfloat16()
    aeplus.Journal.open(folder).undo(1, model=fresh, tokenizer=tiny_tokenizer())
    assert equal(fresh, before)


def test_a_model_folder_of_the_command_line_is_found_again(run: Path, workplace: Path) -> None:
    options = Journal.open(run).chain.header["model"]
    assert options == {
        "model": str(workplace / "model"),
        "dtype": "float32",
        "revision": None,
        "trust_remote_code": False,
    }
    assert load_model(*options.values())


def test_replay_chooses_as_the_run_did_and_protects_the_same_facts(tmp_path: Path) -> None:
    facts = [{"prompt": "The river in {} is", "subject": "Oslo", "target_new": "Rome"}]
    options = {**OPTIONS, "preserved_count": 3, "snippet_corpus": LEARNING["corpus"], "facts_weight": 50.0}
    folder, tokenizer = tmp_path / "kept", tiny_tokenizer()
    aeplus.edit(tiny_model("llama"), tokenizer, records(), journal=folder, preserve=facts, **options)
    model, expected = tiny_model("llama"), tiny_model("llama")
    Journal.open(folder).undo(1, mode="replay", model=model, tokenizer=tokenizer)
    aeplus.edit(expected, tokenizer, records()[3:], preserve=facts, **options)
    assert equal(model, weights(expected))
    unprotected = tiny_model("llama")
    aeplus.edit(unprotected, tokenizer, records()[3:], **options)
    assert not equal(unprotected, weights(expected))


def test_a_result_undoes_its_own_entries_only(tmp_path: Path) -> None:
    tokenizer, folder = tiny_tokenizer(), tmp_path / "kept"
    model = tiny_model("llama")
    result = aeplus.edit(model, tokenizer, records()[:3], journal=folder, **OPTIONS)
    edited = weights(model)
    aeplus.edit(tiny_model("llama"), tokenizer, records()[3:], journal=folder, **OPTIONS)
    with pytest.raises(
        InputError, match=r"expected the last entries of the journal .*, got entry 2 after them; use aepl"
    ):
        result.undo()
    assert equal(model, edited)
    assert [line.active for line in Journal.open(folder).log()] == [3, 3, 1]


def test_feedback_cannot_be_taken_apart(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    options = {**OPTIONS, "method": "rect", "feedback": True}
    aeplus.edit(tiny_model("llama"), tiny_tokenizer(), records(), journal=folder, **options)
    for numbers, text in (((1,), "on which entry 2, 3 by rect:smooth=true builds"), ((3,), None)):
        if text is None:
            Journal.open(folder).undo(*numbers, model=tiny_model("llama"), tokenizer=tiny_tokenizer())
        else:
            with pytest.raises(InputError, match=text):
                Journal.open(folder).undo(*numbers, model=tiny_model("llama"), tokenizer=tiny_tokenizer())
    with pytest.raises(
        InputError, match="which rect:smooth=true has solved as a whole; take all of it out, or use the mode replay"
    ):
        Journal.open(folder).undo(2, edit=1, model=tiny_model("llama"), tokenizer=tiny_tokenizer())


def test_edits_that_share_a_key_are_taken_out_together(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    edits = [{"prompt": f"{{}} {more}", "subject": "Rome", "target_new": "Paris"} for more in ("is in", "lies by")]
    aeplus.edit(tiny_model("llama"), tiny_tokenizer(), edits, journal=folder, **{**OPTIONS, "batch_size": 2})
    with pytest.raises(
        InputError, match="got entry 1, some of whose edits share a key and a target; take all of it out"
    ):
        Journal.open(folder).undo(1, edit=1, model=tiny_model("llama"), tokenizer=tiny_tokenizer())


def test_an_edit_that_was_superseded_is_not_asked_for(tmp_path: Path) -> None:
    first, again = records()[0], {**records()[0], "target_new": "Italy"}
    folder, options = tmp_path / "kept", {**OPTIONS, "batch_size": 1}
    aeplus.edit(tiny_model("llama"), tiny_tokenizer(), [first, again], journal=folder, **options)
    undone = Journal.open(folder).undo(1, model=tiny_model("llama"), tokenizer=tiny_tokenizer())
    assert undone.edits == 1
    assert undone.removed[0]["efficacy"] is None
    assert undone.others[0]["efficacy"] is not None


class Fails(EditCallback):
    """Raises once some batches are committed."""

    def __init__(self, error: BaseException, batches: int) -> None:
        self.error, self.left = error, batches

    def on_batch_committed(self, trainer: object, module: object, commit: object) -> None:
        self.left -= 1
        if not self.left:
            raise self.error


QUICK = {**OPTIONS, "steps": 2}


@pytest.mark.parametrize(("error", "before"), [(RuntimeError("no"), 3), (KeyboardInterrupt(), 0)])
def test_a_call_that_fails_leaves_the_journal_with_the_edits_that_it_had(
    tmp_path: Path, error: BaseException, before: int
) -> None:
    tokenizer, folder, model = tiny_tokenizer(), tmp_path / "kept", tiny_model("llama")
    unedited = weights(model)
    if before:
        aeplus.edit(tiny_model("llama"), tokenizer, records()[:before], journal=folder, **QUICK)
    with pytest.raises(type(error)):
        aeplus.edit(model, tokenizer, records()[before:], journal=folder, callbacks=[Fails(error, 2)], **QUICK)
    assert equal(model, unedited)
    journal = Journal.open(folder)
    assert sum(line.active for line in journal.log()) == before
    assert [line.kind for line in journal.log()][-1] == "undo"
    journal.verify()
    aeplus.edit(model, tokenizer, records()[before:], journal=folder, **QUICK)  # the next call has nothing left of it
    assert sum(line.active for line in Journal.open(folder).log()) == len(records())
    fresh = tiny_model("llama")
    assert Journal.open(folder).apply(fresh)
    assert equal(fresh, weights(model))


def test_a_journal_that_cannot_be_written_any_more_is_named(tmp_path: Path) -> None:
    folder, model = tmp_path / "kept", tiny_model("llama")

    class Blocks(Fails):
        def on_batch_committed(self, trainer: object, module: object, commit: object) -> None:
            (folder / "000002.json").mkdir()
            raise self.error

    blocked = Blocks(RuntimeError("no"), 1)
    with pytest.raises(RuntimeError, match="no"), pytest.warns(UserWarning, match="still counts entries 1, which"):
        aeplus.edit(model, tiny_tokenizer(), records(), journal=folder, callbacks=[blocked], **QUICK)
    assert equal(model, weights(tiny_model("llama")))


def test_replay_chooses_by_the_rule_that_the_call_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, tokenizer = tmp_path / "kept", tiny_tokenizer()
    options = {**OPTIONS, "preserved_count": 3, "snippet_corpus": LEARNING["corpus"]}
    monkeypatch.setattr(Converge, "observe", lambda self, score: Decision(keep=True, done=True))  # the most smoothed
    monkeypatch.setattr(Best, "observe", lambda self, score: Decision(keep=True, done=False))  # the last
    aeplus.edit(tiny_model("llama"), tokenizer, records(), journal=folder, selection="converge", **options)
    saved = Journal.open(folder).show(3)["settings"]["selection"]
    assert saved == {"selection": "converge", "tie": 0.0, "patience": 2, "min_delta": 0.02, "monitor": None}
    model, expected, other = (tiny_model("llama") for _ in range(3))
    Journal.open(folder).undo(1, mode="replay", model=model, tokenizer=tokenizer)
    aeplus.edit(expected, tokenizer, records()[3:], selection="converge", **options)
    assert equal(model, weights(expected))
    aeplus.edit(other, tokenizer, records()[3:], selection="best", **options)
    assert not equal(other, weights(expected))


def test_replay_says_by_which_settings_it_solved(tmp_path: Path) -> None:
    folder, tokenizer = tmp_path / "kept", tiny_tokenizer()
    facts = [{"prompt": "The river in {} is", "subject": "Oslo", "target_new": "Rome"}]
    for made, more in (
        (records()[:2], {}),
        (records()[2:4], {}),
        (records()[4:], {"method": "kde", "preserve": facts}),
    ):
        aeplus.edit(tiny_model("llama"), tokenizer, made, journal=folder, **{**LEARNING, **more})
    with pytest.warns(UserWarning, match="made with different settings; those of entry 3 are used"):
        Journal.open(folder).undo(1, mode="replay", model=tiny_model("llama"), tokenizer=tokenizer)
    assert Journal.open(folder).show(4)["settings"]["model"]["method"]["name"] == "kde"
    assert [fact["subject"] for fact in Journal.open(folder).show(4)["settings"]["preserve"]] == ["Oslo"]
    with pytest.raises(InputError, match=r"got entry 4, which kde has solved as a whole"):
        Journal.open(folder).undo(4, edit=1, model=tiny_model("llama"), tokenizer=tokenizer)


def test_replay_says_where_other_facts_were_protected(tmp_path: Path) -> None:
    folder, tokenizer = tmp_path / "kept", tiny_tokenizer()
    facts = [{"prompt": "The river in {} is", "subject": "Oslo", "target_new": "Rome"}]
    for made, preserve in ((records()[:2], facts), (records()[2:4], [])):
        aeplus.edit(tiny_model("llama"), tokenizer, made, "alphaedit", journal=folder, preserve=preserve, **LEARNING)
    aeplus.edit(tiny_model("llama"), tokenizer, records()[4:6], "alphaedit", journal=folder, preserve=facts, **LEARNING)
    with pytest.warns(UserWarning, match="made with different settings; those of entry 3 are used"):
        Journal.open(folder).undo(1, mode="replay", model=tiny_model("llama"), tokenizer=tokenizer)


def test_replay_with_a_validation_file_of_the_later_edits(tmp_path: Path) -> None:
    folder, tokenizer, file = tmp_path / "kept", tiny_tokenizer(), tmp_path / "validation.jsonl"
    later = requests_from_records(records()[3:])
    write_validation(file, compose_validation(later, (), Rewriter(), share=1.0, preserved_count=0), later, {})
    aeplus.edit(tiny_model("llama"), tokenizer, records()[:3], journal=folder, **OPTIONS)
    aeplus.edit(tiny_model("llama"), tokenizer, records()[3:], journal=folder, validation=str(file), **OPTIONS)
    assert Journal.open(folder).undo(2, mode="replay", model=tiny_model("llama"), tokenizer=tokenizer).replayed == 1
    assert Journal.open(folder).undo(1, mode="replay", model=tiny_model("llama"), tokenizer=tokenizer).replayed == 1


def test_replay_needs_to_see_what_the_rule_watched() -> None:
    settings = {"selection": asdict(SelectionOptions(monitor="validation/own"))}
    with pytest.raises(InputError, match=r"expected a monitor out of .* for the mode replay, got 'validation/own' in"):
        _choose_alike(SimpleNamespace(), settings, 3)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="entry 3 chose its candidates by a rule of its own"):
        _choose_alike(SimpleNamespace(), {"selection": None}, 3)  # type: ignore[arg-type]
