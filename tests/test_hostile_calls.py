"""``aeplus.edit``: whatever it is given, an InputError or a right result, and the model as before."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import aeplus
from aeplus.errors import InputError
from small import SMALL
from test_hostile import tree
from test_hostile_commands import ANY, CONFIG, EDITS, TEXT, Damage, within
from tiny import tiny_model, tiny_tokenizer

RECORD = {"prompt": "The capital of {}", "subject": "France", "target_new": "Paris"}


def model_with(change: str) -> Any:
    model = tiny_model("gpt2")
    weight = model.transformer.h[1].mlp.c_proj.weight
    if change == "nan":
        weight[0, 0] = torch.nan
    elif change == "nan-elsewhere":
        model.transformer.h[3].attn.c_attn.weight[0, 0] = torch.nan
    elif change == "meta":
        model.to("meta")
    elif change == "integers":
        model.transformer.h[1].mlp.c_proj.weight = torch.nn.Parameter(weight.to(torch.int8), requires_grad=False)
    elif change == "shape":
        model.transformer.h[1].mlp.c_proj.weight = torch.nn.Parameter(weight[:, :3], requires_grad=False)
    elif change == "no-layers":
        model.transformer.h = torch.nn.ModuleList()
    elif change == "no-head":
        model = model.transformer
    return model


RECORDS: dict[str, Any] = {
    "none": [None],
    "number": [3],
    "text": ["France"],
    "list": [[RECORD]],
    "bytes": [{**RECORD, "subject": b"France"}],
    "missing": [{"prompt": "The capital of {}", "subject": "France"}],
    "nothing": [{}],
    "empty": [],
    "blank": [{**RECORD, "target_new": "  "}],
    "no-slot": [{**RECORD, "prompt": "no", "subject": "absent"}],
    "slots": [{**RECORD, "prompt": "{} {} {0} {x}"}],
    "format": [{**RECORD, "prompt": "{.__class__} {}"}],
    "numbers": [{**RECORD, "subject": 3, "target_new": 4.5}],
    "nan": [{**RECORD, "target_new": float("nan")}],
    "lists": [{**RECORD, "subject": ["a"], "target_new": {"str": 3}}],
    "rephrase": [{**RECORD, "rephrase": {"a": 3}}],
    "neighborhood": [{**RECORD, "neighborhood": [{"prompt": None}]}],
    "surrogate": [{**RECORD, "prompt": "\ud800 {}"}],
    "zero": [{**RECORD, "subject": "\0", "target_new": "\0"}],
    "long": [{**RECORD, "prompt": "word " * 10_000 + "{}"}],
    "long-target": [{**RECORD, "target_new": "word " * 10_000}],
    "join": [{**RECORD, "join": "x"}],
    "turns": [{**RECORD, "turns": 3}],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "batch-size": {"batch_size": 0},
    "batch-none": {"batch_size": None},
    "layers-empty": {"layers": []},
    "layers-far": {"layers": [99]},
    "layers-minus": {"layers": [-1]},
    "layers-twice": {"layers": [1, 1]},
    "layers-true": {"layers": [True]},
    "site": {"site": "model.nothing.{}"},
    "site-format": {"site": "{.__class__}{"},
    "method": {"method": "../x"},
    "method-yaml": {"method": "nowhere.yaml"},
    "dtype": {"edited_dtype": "int8"},
    "dtype-none": {"edited_dtype": None},
    "selection": {"selection": "worst"},
    "selection-number": {"selection": 3},
    "seed": {"seed": -1},
    "seed-text": {"seed": "x"},
    "seed-none": {"seed": None},
    "journal-home": {"journal": "~nosuch/x"},
    "journal-long": {"journal": "x" * 5000},
    "journal-null": {"journal": "a\0b"},
    "steps": {"steps": -1},
    "steps-float": {"steps": 1.5},
    "steps-text": {"steps": "many"},
    "rate": {"learning_rate": float("nan")},
    "rate-infinite": {"learning_rate": float("inf")},
    "clamp": {"clamp": -1.0},
    "kl": {"kl_factor": "x"},
    "ridge": {"ridge": float("nan")},
    "threshold": {"threshold": None},
    "threshold-kind": {"threshold_kind": "x"},
    "filter": {"filter": "x"},
    "filter-number": {"filter": 3},
    "update": {"update": ["closed_form"]},
    "prior": {"prior": {}},
    "treatment": {"treatment": None},
    "sites": {"sites": "nowhere"},
    "targets": {"targets": 7},
    "gradient": {"method": "ft", "gradient": {"steps": 3}},
    "gradient-type": {"method": "ft", "gradient": 3},
    "smoothing": {"smoothing_steps": -3},
    "share": {"smoothing_share": 2.0},
    "corpus": {"corpus": 3},
    "corpus-none": {"corpus": None},
    "corpus-null": {"corpus": "a\0b"},
    "tokens": {"tokens": 0},
    "window": {"window": -5},
    "sample": {"sample": "x"},
    "contexts": {"contexts": -1},
    "context-length": {"context_length": 10**6},
    "chunk": {"chunk_tokens": 0},
    "norm": {"norm": "x"},
    "anchor": {"norm": "anchor", "anchor": {"a": "b"}},
    "anchor-list": {"norm": "anchor", "anchor": [1]},
    "precision": {"precision": "half"},
    "stop": {"stop": "never"},
    "facts": {"facts": "nowhere.jsonl"},
    "facts-number": {"facts": 3},
    "weight": {"facts_weight": -1.0},
    "validation": {"validation": 3},
    "share-validation": {"validation_share": float("nan")},
    "preserved": {"preserved": ["x"]},
    "preserved-count": {"preserved_count": -1},
    "snippets": {"preserved_count": 3, "snippet_corpus": "nowhere.txt"},
    "join": {"join": "x"},
    "template": {"chat_template": True},
    "template-text": {"chat_template": "yes"},
    "rank": {"max_rank": 0},
    "growth": {"max_growth": "x"},
    "unknown": {"color": "red"},
    "preserve": {"preserve": [3]},
    "preserve-empty": {"preserve": [{}]},
    "tokenizer-object": {"tokenizer": SimpleNamespace(get_vocab=dict)},
    "tokenizer-mock": {"tokenizer": SimpleNamespace(get_vocab=lambda: {"a": 10**9})},
    "tokenizer-class": {"tokenizer": type(tiny_tokenizer())},
    "model-class": {"model": torch.nn.Linear},
}
RIGHT = ("format", "zero", "turns", "rank")  # what they say can be read
MODELS = ("nan", "nan-elsewhere", "meta", "integers", "shape", "no-layers", "no-head")
FILES: list[tuple[str, str, dict[str, Damage]]] = [
    ("facts", "facts.jsonl", EDITS),
    ("preserved", "facts.jsonl", EDITS),
    ("validation", "validation.jsonl", ANY),
    ("method", "own.yaml", CONFIG),
    ("corpus", "text.txt", TEXT),
]


def some(cases: Sequence[tuple[str, ...]], every: int) -> list[Any]:
    """One case of so many belongs to the quick tests."""
    return [
        pytest.param(*case, id="-".join(case), marks=[pytest.mark.slow] if index % every else [])
        for index, case in enumerate(cases)
    ]


def outcome(changed: dict[str, Any]) -> str:
    """What a call said; empty if it ended well. Anything but an InputError is a failure, and so is a changed model."""
    given: dict[str, Any] = {"model": tiny_model("gpt2"), "tokenizer": tiny_tokenizer(), "edits": [RECORD], **SMALL}
    given |= changed
    model = given["model"]
    before = {n: t.clone() for n, t in model.state_dict().items()} if isinstance(model, torch.nn.Module) else {}
    with within(60):
        try:
            aeplus.edit(**given)
        except InputError as error:
            for name, tensor in before.items():
                same = tensor.is_meta or torch.equal(model.state_dict()[name].nan_to_num(), tensor.nan_to_num())
                assert same, name
            return str(error)
    return ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("argument", "name"), some([(a, n) for n in RECORDS for a in ("edits", "preserve")], 2))
def test_records(argument: str, name: str) -> None:
    said = outcome({argument: RECORDS[name]})
    assert bool(said) == (name not in RIGHT and not (argument == "preserve" and name == "empty"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bool(outcome(OPTIONS[name])) == (name not in RIGHT)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    assert outcome({"model": model_with(name)})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("option", "file", "damage"), some([(o, f, n) for o, f, damages in FILES for n in damages], 3))
def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, file: str, damage: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / file
    path.write_text(json.dumps(RECORD))
    next(damages for name, _, damages in FILES if name == option)[damage](path)
    before = tree(tmp_path)
    assert outcome({option: str(path)})
    assert tree(tmp_path) == before
