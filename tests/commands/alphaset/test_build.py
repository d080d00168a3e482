"""AlphaSet, built for a tiny model with the command."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from aeplus.commands.alphaset import command, sentences
from aeplus.commands.alphaset.measure import conflict_among
from aeplus.commands.main import main
from aeplus.commands.stream_keys import read_keys, stream_rows
from aeplus.data.paraphrase import similarity
from aeplus.data.readers import read_requests
from aeplus.edits import normal
from aeplus.functional import conflict
from aeplus.models.decoder import Decoder
from aeplus.models.hooks import on_input
from aeplus.models.tokens import encode
from aeplus.preserved.statistics import PreservedOptions
from aeplus.preserved.stored import load_or_collect
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import batch_rows
from aeplus.utils.progress import Progress
from tiny import tiny_model, tiny_tokenizer

NAMES = ("alphaset1", "alphaset2", "alphaset3")
SIZES = ["--sizes", "3+5,4+7,3+6"]
CAPITALS, TONGUES = ("Paris", "Italy", "London", "France"), ("English", "Italian", "People")


def test_conflict_among_keys_is_with_the_nearest_other() -> None:
    layers = [torch.randn(6, 5, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    others = [[torch.cat([k[:, :i], k[:, i + 1 :]], 1) for i in range(5)] for k in layers]
    s = [[float(conflict(k[:, i : i + 1], own[i])) for i in range(5)] for k, own in zip(layers, others, strict=True)]
    assert conflict_among(layers) == pytest.approx([(a + b) / 2 for a, b in zip(*s, strict=True)])
    assert conflict_among([layers[0][:, :1]]) == [0]


def pool(count: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "prompt": "The capital of {} is" if i % 2 else "{} is governed from",
            "subject": f"Land{i}",
            "target_new": CAPITALS[i // 2 % 4],
            "rephrase": [f"In the city of Land{i}"],
            "neighborhood": [{"prompt": "The capital of Peru is", "answer": "Lima"}],
            "axes": [{"prompt": f"Land{i} lies in", "answer": "Asia", "axis": "portability"}],
            "generation": [f"Land{i} is famous for"],
        }
        for i in range(count)
    ]


def facts() -> list[dict[str, Any]]:
    return [{"prompt": "People of {} speak", "subject": f"Old{i}", "target_new": TONGUES[i % 3]} for i in range(9)]


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool, preserved facts, and the sets made of them."""
    folder = tmp_path_factory.mktemp("alphaset")
    write(folder / "pool.jsonl", pool())
    write(folder / "k0.jsonl", facts())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load_on_device", lambda _: (tiny_model(), tiny_tokenizer()))
        assert build(folder, "out") == 0
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load_on_device", lambda _: (tiny_model(), tiny_tokenizer()))


def build(folder: Path, out: str, *more: str, edits: str = "pool.jsonl", k0: str = "k0.jsonl") -> int:
    words = ["--edits", str(folder / edits), "--k0", str(folder / k0), "--model", "tiny", "--layers", "0,1,2"]
    return main(["build-alphaset", *words, "--steps", "6", "--out", str(folder / out), *(more or SIZES)])


def test_sizes_and_parts(work: Path) -> None:
    parts = {name: [r["part"] for r in read(work / "out" / f"{name}.jsonl")] for name in NAMES}
    counts = {name: [p.count(part) for part in ("conflict", "prior", "fill")] for name, p in parts.items()}
    assert counts == {"alphaset1": [3, 0, 5], "alphaset2": [4, 4, 3], "alphaset3": [3, 0, 6]}
    assert all(part != sorted(part) for part in parts.values())  # mixed
    assert sorted(path.name for path in (work / "out").iterdir() if path.suffix) == [
        *(f"{name}.{ending}" for name in NAMES for ending in ("card.json", "jsonl")),
        "card.json",
        "k0.jsonl",
    ]


@pytest.mark.filterwarnings("error")
def test_the_readers_load_them_with_their_tests(work: Path) -> None:
    for name in NAMES:
        edits = read_requests(work / "out" / f"{name}.jsonl")
        records = read(work / "out" / f"{name}.jsonl")
        assert [(e.prompt, e.subject, e.target_new) for e in edits] == [
            (r["prompt"], r["subject"], r["target_new"]) for r in records
        ]
        for edit, record in zip(edits, records, strict=True):
            assert edit.rephrase
            assert edit.neighborhood or edit.subject.startswith("Old")
            assert bool(edit.axes) == (record["part"] in ("fill", "prior") or name == "alphaset3")


def test_no_edit_of_the_pool_is_taken_twice(work: Path) -> None:
    subjects = [r["subject"] for n in NAMES for r in read(work / "out" / f"{n}.jsonl") if not r["id"].endswith("again")]
    assert len(subjects) == len(set(subjects)) == 3 + 5 + 7 + 9


def test_conflicting_records_ask_in_other_words_for_another_answer(work: Path) -> None:
    original = {record["subject"]: record for record in [*pool(), *facts()]}
    for name in NAMES[:2]:
        for record in (r for r in read(work / "out" / f"{name}.jsonl") if r["part"] == "conflict"):
            old = original[record["subject"]]
            texts = [r["prompt"].replace("{}", r["subject"]) for r in (old, record)]
            assert similarity(*texts) < 0.9
            assert record["target_new"] != old["target_new"]
            assert record["target_new"] in {r["target_new"] for r in original.values() if r["prompt"] == old["prompt"]}


def test_rewrites_follow_what_they_rewrite(work: Path) -> None:
    records = read(work / "out" / "alphaset2.jsonl")
    places = {
        part: {r["fact"]: i for i, r in enumerate(records) if r["part"] == part} for part in ("prior", "conflict")
    }
    assert places["prior"].keys() == places["conflict"].keys()
    assert max(places["prior"].values()) < len(records) // 2 + 1 <= min(places["conflict"].values()) + 1
    assert all(places["prior"][fact] < place for fact, place in places["conflict"].items())
    keys = [request.fact_key for request in read_requests(work / "out" / "alphaset2.jsonl")]
    assert len(set(keys)) == len(keys) - 4  # a rewrite replaces its edit in the evaluation


def test_the_largest_residuals_are_in_the_third_set(work: Path) -> None:
    """Every candidate was measured; none of the pool's that were taken as fill has a larger one."""
    records = [r for name in NAMES for r in read(work / "out" / f"{name}.jsonl")]
    largest = [r["residual_norm"] for r in read(work / "out" / "alphaset3.jsonl") if r["part"] == "conflict"]
    assert min(largest) >= max(r["residual_norm"] for r in records if r["part"] == "fill")


def test_measures_are_those_of_the_formulas(work: Path) -> None:
    """Against keys read by a plain forward pass, one prompt at a time, and targets learned one at a time."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    decoder = Decoder(model)
    modules = [site.module for site in decoder.select([0, 1, 2])]

    def keys(edit: Any) -> list[torch.Tensor]:
        (row,) = encode(tokenizer, [edit.question], marks=[edit.subject_end])
        found: list[torch.Tensor] = []
        with on_input(modules, lambda _, x: found.append(x[0, row.mark])):
            model(torch.tensor([row.ids]))
        return found

    preserved = [torch.stack(layer, 1) for layer in zip(*map(keys, read_requests(work / "k0.jsonl")), strict=True)]
    for name in NAMES:
        edits, records = read_requests(work / "out" / f"{name}.jsonl"), read(work / "out" / f"{name}.jsonl")
        found = [torch.stack(layer, 1) for layer in zip(*map(keys, edits), strict=True)]
        s = torch.stack([conflict(k, p) for k, p in zip(found, preserved, strict=True)]).mean(0).tolist()
        assert [r["conflict_preserved"] for r in records] == pytest.approx(s, abs=1e-4)
        for i in range(len(edits)):
            prior = torch.stack([conflict(k[:, i : i + 1], k[:, :i]) for k in found]).mean()
            assert records[i]["conflict_prior"] == pytest.approx(float(prior), abs=1e-4)
        assert records[0]["conflict_prior"] == 0
        options = TargetOptions(steps=6, contexts=0)
        targets = find_targets(decoder, batch_rows(tokenizer, edits[:1], [""]), 2, options)
        norm = float((targets.values - targets.initial).norm())
        assert records[0]["residual_norm"] == pytest.approx(norm, rel=1e-3)


def test_cards_hold_averages_and_histograms(work: Path) -> None:
    overall = json.loads((work / "out" / "card.json").read_text())
    for name in NAMES:
        card, records = (
            json.loads((work / "out" / f"{name}.card.json").read_text()),
            read(work / "out" / f"{name}.jsonl"),
        )
        assert overall["averages"][name] == card["averages"]
        for quantity in ("conflict_preserved", "conflict_prior", "residual_norm"):
            groups = {
                "conflict": [r[quantity] for r in records if r["part"] == "conflict"],
                "fill": [r[quantity] for r in records if r["part"] != "conflict"],
                "all": [r[quantity] for r in records],
            }
            histogram = card["histograms"][quantity]
            edges = histogram["edges"]
            assert len(edges) == 21
            assert all(a < b for a, b in pairwise(edges))
            for group, values in groups.items():
                assert card["averages"][group][quantity] == pytest.approx(sum(values) / len(values), abs=1e-4)
                assert sum(histogram[group]) == len(values)
                bins = [b for b, count in enumerate(histogram[group]) for _ in range(count)]
                for b, value in zip(bins, sorted(values), strict=True):
                    assert edges[b] - 1e-3 <= value <= edges[b + 1] + 1e-3
    assert overall["layers"] == [0, 1, 2]
    assert overall["residual_layer"] == 2
    assert overall["edits"]["records"] == 40
    assert overall["rewriting"]["counts"] == {"templates": 6 + 8}
    assert len(overall["weights"]) == len(overall["k0"]["digest"]) == 32


def test_the_same_seed_makes_the_same_files(work: Path, tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(work, "again") == 0
    assert "alphaset1.jsonl (8 edits)" in capsys.readouterr().out
    assert build(work, "other", *SIZES, "--seed", "1") == 0
    for path in (work / "out").glob("[a-z]*.*"):
        assert path.read_bytes() == (work / "again" / path.name).read_bytes()
        same = path.read_bytes() == (work / "other" / path.name).read_bytes()
        assert same == (path.name == "k0.jsonl")  # the facts are those of the file, whatever the seed


def test_a_copy_of_the_files_elsewhere_makes_the_same(work: Path, tiny: None, tmp_path: Path) -> None:
    for name in ("pool.jsonl", "k0.jsonl"):
        (tmp_path / name).write_bytes((work / name).read_bytes())
    assert build(tmp_path, "out") == 0
    assert (tmp_path / "out" / "card.json").read_bytes() == (work / "out" / "card.json").read_bytes()


def test_what_tests_an_edit_changes_no_choice(work: Path, tiny: None, tmp_path: Path) -> None:
    tests = {"rephrase": ["r"], "neighborhood": ["n"], "axes": [], "generation": ["g"], "aliases": ["z"]}
    write(tmp_path / "pool.jsonl", [{**record, **tests} for record in pool()])
    write(tmp_path / "k0.jsonl", facts())
    assert build(tmp_path, "out") == 0
    fields = ("prompt", "subject", "target_new", "part", "conflict_preserved", "conflict_prior", "residual_norm")
    for name in NAMES:
        one, two = (
            [{field: record[field] for field in fields} for record in read(folder / "out" / f"{name}.jsonl")]
            for folder in (work, tmp_path)
        )
        assert one == two


def test_candidates_bound_what_is_measured(work: Path, tiny: None) -> None:
    for given, measured in (("1", 5 + 3 + 9), ("20", 20), ("100", 36)):
        assert build(work, "few", *SIZES, "--candidates", given) == 0
        assert json.loads((work / "few" / "card.json").read_text())["candidates"] == measured


def test_a_language_model_rewrites_and_text_adds_to_k0(work: Path, tiny: None, workplace: Path) -> None:
    corpus = ["--corpus", str(workplace / "text.txt"), "--corpus-tokens", "512"]
    assert build(work, "lm", *SIZES, "--rewriter", "lm", *corpus) == 0
    card, plain = (json.loads((work / name / "card.json").read_text()) for name in ("lm", "out"))
    assert card["rewriting"]["rewriter_model"] == "tiny"
    counts = card["rewriting"]["counts"]
    assert counts["templates"] + counts["lm"] == 14
    assert any(name.startswith("refused") for name in counts)
    s = [c["averages"]["alphaset3"]["all"]["conflict_preserved"] for c in (card, plain)]
    assert s[0] > s[1]
    assert (
        card["averages"]["alphaset3"]["all"]["residual_norm"] == plain["averages"]["alphaset3"]["all"]["residual_norm"]
    )


def test_k0_facts_enter_c_with_weight(work: Path, tiny: None, workplace: Path) -> None:
    """‖P k‖ / ‖k‖ of each record, against a dense C with the facts in it."""
    corpus = ["--corpus", str(workplace / "text.txt"), "--corpus-tokens", "512", "--threshold", "0.003"]
    assert build(work, "light", *SIZES, *corpus, "--facts-weight", "1e-9") == 0
    assert build(work, "heavy", *SIZES, *corpus, "--facts-weight", "3") == 0
    decoder, tokenizer = Decoder(tiny_model()), tiny_tokenizer()
    sites = decoder.select([0, 1, 2])
    options = PreservedOptions(str(workplace / "text.txt"), 512, window=128)
    texts = load_or_collect(decoder, tokenizer, sites, options, Progress())
    facts = stream_rows(decoder, tokenizer, read_requests(work / "heavy" / "k0.jsonl"), [""], 9)
    known = read_keys(decoder, sites, facts, Progress())
    records = read(work / "heavy" / "alphaset1.jsonl")
    edits = stream_rows(decoder, tokenizer, read_requests(work / "heavy" / "alphaset1.jsonl"), [""], 8)
    shares = []
    for statistics, k0, keys in zip(texts, known, read_keys(decoder, sites, edits, Progress()), strict=True):
        values, vectors = statistics.spectrum.values.double(), statistics.spectrum.vectors.double()
        covariance = (vectors * values) @ vectors.T + 3 * k0.double() @ k0.double().T
        values, vectors = torch.linalg.eigh(covariance)
        null = vectors[:, values < 0.003]
        shares.append((null.T @ keys.double()).norm(dim=0) / keys.double().norm(dim=0))
    assert [r["free"] for r in records] == pytest.approx(torch.stack(shares).mean(0).tolist(), abs=2e-3)
    free = [json.loads((work / name / "card.json").read_text())["averages"]["alphaset1"] for name in ("light", "heavy")]
    assert free[1]["conflict"]["free"] < free[0]["conflict"]["free"]
    assert "free" not in read(work / "out" / "alphaset1.jsonl")[0]


def test_k0_facts_out_of_sentences(work: Path, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"Town{a}{b} Hill" for a in "abcdef" for b in "ghij"]
    lines = [f"{name} is a small place that lies in {('Italy', 'France')[i % 2]}." for i, name in enumerate(names)]
    (tmp_path / "text.txt").write_text("\n\n".join([*lines, "The rest of it says nothing of any use to a reader."]))
    monkeypatch.setattr(
        sentences, "answer_probabilities", lambda _, rows: [0.9 if i % 4 else None for i in range(len(rows))]
    )
    corpus = ["--corpus", str(tmp_path / "text.txt"), "--corpus-tokens", "256", "--k0-count", "10"]
    words = ["--edits", str(work / "pool.jsonl"), "--k0", "corpus", "--model", "tiny", "--layers", "0,1"]
    assert main(["build-alphaset", *words, "--steps", "2", "--out", str(tmp_path / "out"), *SIZES, *corpus]) == 0
    facts = read_requests(tmp_path / "out" / "k0.jsonl")
    assert len(facts) == 10
    assert all(f"{fact.question} {fact.target_new}." in lines for fact in facts)
    changed = [r for r in read(tmp_path / "out" / "alphaset1.jsonl") if r["part"] == "conflict"]
    true = {fact.subject: fact.target_new for fact in facts}
    assert all({r["target_new"], true[r["subject"]]} == {"Italy", "France"} for r in changed)


def test_too_little_is_reported_before_the_model_is_loaded(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "load_on_device", lambda _: pytest.fail("loaded"))
    assert build(work, "none", "--scale", "0.1") == 2
    said = capsys.readouterr().err
    assert "expected 310 edits on different subjects for sets of 20 + 80, 20 + 80, 30 + 120" in said
    assert "got 40, 40 and 9; provide more, or use --scale 0.013, the largest that works" in said
    assert not (work / "none").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sizes", "3"], "expected three sizes"),
        (["--scale", "0"], "expected a scale above 0"),
        ([*SIZES, "--layers", "a"], "expected layers after --layers, got 'a'"),
        ([*SIZES, "--layers", "0,9"], "expected layers from 0 to 3"),
        ([*SIZES, "--candidates", "0"], "expected --candidates to be at least 1"),
        ([*SIZES, "--facts-weight", "0"], "expected --facts-weight above 0, got 0.0; choose another number."),
        ([*SIZES, "--k0-count", "0"], "expected --k0-count above 0, got 0; choose another number."),
        ([*SIZES, "--steps", "0"], "expected targets.steps above 0, got 0"),
        ([*SIZES, "--corpus", "/none"], "expected a text file"),
    ],
)
def test_bad_input_is_one_sentence(
    work: Path, tiny: None, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(work, "none", *words) == 2
    assert said in capsys.readouterr().err
    assert not (work / "none").exists()


def test_answers_of_one_form_only(work: Path, tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Facts whose form nobody else answers otherwise cannot be changed."""
    write(work / "lonely.jsonl", [{**fact, "target_new": "English"} for fact in facts()])
    assert build(work, "none", *SIZES, k0="lonely.jsonl") == 2
    assert "40, 40 and 0; provide more." in capsys.readouterr().err


def test_pool_and_facts_of_one_file(work: Path, tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(work, "none", *SIZES, k0="pool.jsonl") == 2
    assert "got 0, 0 and 40" in capsys.readouterr().err


def test_counterfact(tmp_path: Path, tiny: None) -> None:
    data = Path(__file__).parents[4] / "shared" / "data" / "counterfact_edits.jsonl"
    if not data.is_file():
        pytest.skip("no CounterFact edits here")
    lines = data.read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "pool.jsonl").write_text("".join(lines[:400]), "utf-8")
    (tmp_path / "k0.jsonl").write_text("".join(lines[400:]), "utf-8")
    assert build(tmp_path, "out", "--sizes", "3+5,3+5,3+5", "--candidates", "20") == 0
    for name in NAMES:
        for edit in read_requests(tmp_path / "out" / f"{name}.jsonl"):
            assert normal(edit.subject) in normal(edit.question)
