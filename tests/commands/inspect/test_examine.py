"""The report before editing: it must predict what the run measures, and must not change anything."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

import aeplus
from aeplus.callbacks import BatchCommit, EditCallback
from aeplus.commands.inspect.command import unedited
from aeplus.commands.inspect.examine import examine
from aeplus.commands.inspect.findings import Clash, Finding, most_conflicting
from aeplus.commands.inspect.report import html_page
from aeplus.commands.main import main
from aeplus.data.readers import requests_from_records
from aeplus.methods.compositions import named_method
from aeplus.module import EditModule
from aeplus.preserved.statistics import PreservedOptions
from aeplus.targets.optimizer import TargetOptions
from aeplus.utils.fingerprint import weights_fingerprint
from aeplus.utils.progress import Progress
from small import ROOT, SMALL, records
from tiny import tiny_model, tiny_tokenizer

BATCH = 3


def module_of(model: Any, method: str = "alphaedit_plus", **more: Any) -> EditModule:
    return EditModule(
        "tiny",
        [1, 2],
        named_method(method, threshold=0.5, threshold_kind="dimensions", **more),
        TargetOptions(steps=3, contexts=1, context_length=4),
        PreservedOptions(corpus=SMALL["corpus"], tokens=600, window=32),
    ).attach(model, tiny_tokenizer())


def findings_of(module: EditModule, edits: list[dict[str, Any]], batch_size: int, **more: Any) -> list[Finding]:
    with unedited(module) as session:
        return examine(session, requests_from_records(edits), batch_size, Progress(), **more)


class Watch(EditCallback):
    def __init__(self) -> None:
        self.commits: list[BatchCommit] = []

    def on_batch_committed(self, trainer: Trainer, module: EditModule, commit: BatchCommit) -> None:
        self.commits.append(commit)


def test_the_first_batch_is_reported_as_the_run_measures_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    edits = [{**record, "rephrase": [], "neighborhood": []} for record in records()]
    model = tiny_model()
    before = weights_fingerprint(model)
    found = findings_of(module_of(model, targets="last", smooth=True), edits, BATCH)
    assert found[0].tokens[found[0].subject_token] == " France"
    assert found[0].place == "' France' → ' Paris'"
    assert weights_fingerprint(model) == before
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())

    watch = Watch()
    options = {
        **SMALL,
        "threshold": 0.5,
        "threshold_kind": "dimensions",
        "targets": "last",
        "smooth": True,
        "batch_size": BATCH,
    }
    aeplus.edit(model, tiny_tokenizer(), edits, callbacks=[watch], **options)
    first = watch.commits[0]
    report = first.candidate.layers[0].report
    assert [f.layers["s_K0"][0] for f in found[:BATCH]] == pytest.approx(report.preserved.tolist(), abs=1e-5)
    assert [f.residual for f in found[:BATCH]] == pytest.approx(first.residual_norms, rel=1e-3)
    assert [f.s_Kp for f in found[:BATCH]] == [0.0] * BATCH
    assert [f.nearest_Kp for f in found[:BATCH]] == [None] * BATCH
    largest = max(found[:BATCH], key=lambda f: f.residual or 0)
    assert [f.smoothed for f in found[:BATCH]] == [f is largest for f in found[:BATCH]]
    # The second batch's conflict with previous keys depends on no edited weights at the first edited layer.
    report = watch.commits[1].candidate.layers[0].report
    assert [f.layers["s_Kp"][0] for f in found[BATCH : 2 * BATCH]] == pytest.approx(report.prior.tolist(), abs=1e-5)


def test_an_edit_collides_with_itself_in_a_later_batch_and_in_its_own() -> None:
    edits = [records()[i] for i in (0, 1, 2, 3, 0, 0)]
    found = findings_of(module_of(tiny_model("gpt2")), edits, 4, targets=False)
    again, twice = found[4], found[5]
    assert (again.edit, again.batch, again.nearest_Kp, again.nearest_batch) == (5, 2, 1, 6)
    assert again.s_Kp == pytest.approx(1, abs=1e-5)
    assert again.s_batch == pytest.approx(1, abs=1e-5)
    assert twice.nearest_batch == 5
    assert [c.edit for c in found[0].doubles] == [5, 6]
    assert found[0].s_batch < 0.999
    assert found[0].nearest_batch in (2, 3, 4)
    assert found[0].residual is None
    assert found[0].smoothed is None
    for finding in found:
        assert finding.s_K0 == pytest.approx(sum(finding.layers["s_K0"]) / 2)


@pytest.mark.parametrize("method", ["kde", "blue", "alphaedit"])
def test_methods_without_targets_smoothing_or_all_layers(method: str) -> None:
    more: dict[str, Any] = {} if method != "kde" else {"filter": "null_space"}
    module = module_of(tiny_model(), method, **more)
    module.options["layers"] = [0, 1, 2]
    found = findings_of(module, records()[:2], 2, length=1)
    assert len(found[0].layers["s_K0"]) == (2 if method == "blue" else 3)
    assert [f.residual is None for f in found] == [method == "kde"] * 2
    assert [f.smoothed for f in found] == [None if method == "kde" else False] * 2


def test_edits_below_the_aligned_share_conflict_with_preserved_knowledge() -> None:
    free = [f.free or 0 for f in findings_of(module_of(tiny_model()), records()[:3], 3, targets=False, length=1)]
    module = module_of(tiny_model(), aligned_share=sorted(free)[1])
    found = findings_of(module, records()[:3], 3, targets=False, length=1)
    assert [f.conflicting for f in found] == [share == min(free) for share in free]
    assert ["conflicts with preserved knowledge" in f.remarks() for f in found] == [f.conflicting for f in found]
    (without,) = findings_of(module_of(tiny_model(), "memit"), records()[:1], 1, targets=False, length=1)
    assert (without.free, without.conflicting, without.remarks()) == (None, None, without.notes)


def test_edits_of_one_batch_that_have_one_key_are_named() -> None:
    facts = [{"prompt": prompt, "subject": "Rome", "target_new": "Paris"} for prompt in ("{} is", "{} has", "In {} is")]
    found = findings_of(module_of(tiny_model()), [*facts, facts[0]], 3, targets=False, length=1)
    assert [f.one_key for f in found] == [[2], [1], [], []]  # the last is in the next batch


def test_edits_that_may_be_rewrites_in_other_words_are_named() -> None:
    first = {"prompt": "{} lies in", "subject": "Rome", "target_new": "Paris"}
    later = {"prompt": "The country of {} is", "subject": "Rome", "target_new": "London"}
    found = findings_of(module_of(tiny_model()), [first, records()[0], later], 2, targets=False, length=1)
    assert [f.one_subject for f in found] == [[], [], [1]]
    by_conflict = module_of(tiny_model(), prior="conflict")
    found = findings_of(by_conflict, [first, records()[0], later], 2, targets=False, length=1)
    assert [f.one_subject for f in found] == [[]] * 3


def test_half_precision_weights_are_left_in_it() -> None:
    model = tiny_model().to(torch.bfloat16)
    before = weights_fingerprint(model)
    module = module_of(model)
    module.options["edited_dtype"] = "float32"
    findings_of(module, records()[:2], 2, targets=False, length=1)
    assert weights_fingerprint(model) == before


def finding(**more: Any) -> Finding:
    values: dict[str, Any] = {
        "edit": 1, "id": "1", "batch": 1, "prompt": "P", "subject": "S", "target": "T", "s_K0": 0.5,
        "nearest_K0": "text", "s_Kp": 0.1, "nearest_Kp": None, "s_batch": 0.2, "nearest_batch": 2, "residual": 3.0,
        "smoothed": True, "answer": "now",
    }  # fmt: skip
    return Finding(**{**values, **more})


def test_contradictory_edits_come_first() -> None:
    mild = finding(edit=1, s_K0=0.1, residual=1.0, contradictions=[Clash(9, 2, "other")])
    hard, harder = finding(edit=2, s_K0=0.6, residual=2.0), finding(edit=3, s_K0=0.7, residual=4.0)
    assert [f.edit for f in most_conflicting([hard, mild, harder])] == [1, 3, 2]
    assert mild.remarks() == ["contradicts edit 9 (other, batch 2)"]
    assert finding(one_subject=[4, 6]).remarks() == ["may change what edit 4, 6 says, if they ask for one fact"]
    assert finding(one_key=[4, 5]).remarks() == ["has one key with edit 4, 5"]
    same = finding(contradictions=[Clash(2, 1, "x")], doubles=[Clash(3, 2, "T")], notes=["odd"])
    assert same.remarks() == ["contradicts edit 2 (x, in the same batch)", "duplicate of edit 3, batch 2", "odd"]


class Table(HTMLParser):
    """Rows, cells and what a page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag  # well formed

    def handle_data(self, data: str) -> None:
        if any(tag in ("td", "th") for tag in self.open):
            self.rows[-1][-1] += data


def test_the_page_stands_alone_and_takes_text_as_text() -> None:
    evil = '<script>alert("1")</script> & </td>'
    findings = [finding(prompt=evil, target=evil, answer=evil, nearest_K0=evil, notes=[evil]), finding(residual=None)]
    page = html_page(findings, {"Figure & more": b"png"}, {"model": evil}, [evil])
    table = Table(page)
    assert not table.open
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert [len(row) for row in table.rows] == [15, 15, 15]
    assert table.rows[1][2] == evil
    assert table.rows[1][14] == evil
    assert table.rows[2][12] == ""
    assert all(load.startswith(("data:image/png;base64,", "#edit-")) for load in table.loads)
    assert 'class="number" data-value="0.5">0.500' in page


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inspect(workplace: Path, *more: str) -> int:
    plus = f"{ROOT}/configs/method/alphaedit_plus.yaml"
    return main(["inspect", "--config", f"{workplace}/tiny.yaml", "--config", plus, *more])


def test_the_command_writes_the_same_whatever_the_test_prompts_say(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [*records(), {"prompt": "The capital  of {}", "subject": "france", "target_new": "Rome"}]
    others = [
        {**r, "rephrase": ["Other words"], "neighborhood": ["Another"], "target_true": "Lyon", "generation": ["Go"]}
        for r in own
    ]
    for name, edits in (("one", own), ("two", others)):
        (here / f"{name}.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in edits))
        (here / "edits.jsonl").write_bytes((here / f"{name}.jsonl").read_bytes())
        assert inspect(workplace, "--data.path", "edits.jsonl", "--out", name, "--rows", "2", "--length", "2") == 0
    shown = capsys.readouterr().out
    assert "contradicts edit 8 (Rome, batch 3)" in shown
    assert "6 more edits in the files" in shown
    assert "two/inspect.html" in shown
    names = sorted(path.name for path in (here / "one").iterdir() if path.suffix)
    assert names == ["conflict.png", "inspect.html", "inspect.jsonl", "stream.png"]
    for path in (here / "one").glob("*.*"):
        assert path.read_bytes() == (here / "two" / path.name).read_bytes(), path.name
    found = [json.loads(line) for line in (here / "one" / "inspect.jsonl").read_text().splitlines()]
    assert {f["edit"] for f in found[:2]} == {1, 8}
    assert sorted(f["edit"] for f in found) == list(range(1, 9))
    assert all(f["residual"] > 0 for f in found)
    page = (here / "one" / "inspect.html").read_text()
    assert "Everything is measured on the unedited model" in page
    assert [row[0] for row in Table(page).rows[1:]] == [str(f["edit"]) for f in found]
    assert not (here / "lightning_logs").exists()


@pytest.mark.parametrize(("method", "told"), [("alphaedit_plus", True), ("memit", False)])
def test_conflict_is_counted_where_there_is_a_null_space(workplace: Path, here: Path, method: str, told: bool) -> None:
    words = ["--config", f"method/{method}", "--no-targets", "--data.limit", "2", "--length", "1"]
    assert inspect(workplace, *words, "--out", "out") == 0
    page = (here / "out" / "inspect.html").read_text()
    assert ("edits that conflict with preserved knowledge" in page) == told
    assert "contradictory edits" in page


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--ckpt_path", "x.ckpt"], "expected the unedited model for inspect, got --ckpt_path"),
        (["--rows", "-1"], "expected --rows to be at least 0, got -1"),
        (["--length", "0"], "expected --length to be at least 1, got 0"),
        (["--data.path", "none.jsonl"], "does not exist"),
        (["--model.layers", "[7]"], "expected layers from 0 to 2"),
    ],
)
def test_what_cannot_be_inspected(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    assert inspect(workplace, *words) == 2
    assert text in capsys.readouterr().err
    assert not (here / "lightning_logs").exists()
