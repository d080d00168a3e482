"""The registry of methods: what acts, what is reported, and methods of one's own in every place that takes a name."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import aeplus
from aeplus import METHODS, Method, register_method
from aeplus.commands.main import main
from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate, null_space_filter, sparsify
from aeplus.methods.batch import UPDATES
from aeplus.methods.compositions import find_composition, method_switches, named_method
from aeplus.methods.method import SWITCHES, GradientOptions
from aeplus.methods.parts import FILTERS, PRIORS, kept_eigenvectors
from aeplus.methods.registry import Part, methods_table
from aeplus.methods.treatments import TREATMENTS, added_last
from aeplus.run.notices import possible_rewrites
from small import LEARNING, ROOT, records
from tiny import tiny_model, tiny_tokenizer

OWN = {"filter": "covariance", "prior": "conflict", "relax": "none", "smooth": False, "alpha": 1.0}


@pytest.fixture
def own() -> Iterator[str]:
    """A method of one's own, for a test."""
    yield register_method("memit_conflict", OWN, title="MEMIT with conflict-aware weights").name
    del METHODS["memit_conflict"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    switches = "\n".join(f"    {name}: {json.dumps(value)}" for name, value in OWN.items())
    (tmp_path / "mine.yaml").write_text(f"model:\n  method:\n    name: mine\n{switches}\n")
    return tmp_path


# ---- one's own


def weights(method: str | Method) -> dict[str, torch.Tensor]:
    model = tiny_model("llama")
    aeplus.edit(model, tiny_tokenizer(), records()[:3], method, **{**LEARNING, "alpha": 1.0})
    return dict(model.state_dict())


def test_edit_takes_a_registered_method_a_file_and_an_object(own: str, here: Path) -> None:
    by_name, by_path = weights(own), weights("mine.yaml")
    by_object = weights(Method(name="mine", **OWN))
    by_flags = weights(named_method("memit", prior="conflict"))
    for other in (by_path, by_object, by_flags):
        assert all(torch.equal(by_name[name], weight) for name, weight in other.items())
    assert any(not torch.equal(by_name[name], weight) for name, weight in weights("alphaedit").items())


def test_fit_takes_a_registered_method_and_a_file(own: str, here: Path, workplace: Path) -> None:
    small = ["fit", f"--config={workplace}/tiny.yaml", "--data.limit=2"]
    assert main([*small, f"--config=method/{own}"]) == 0
    assert main([*small, "--config=mine.yaml"]) == 0
    reports = [json.loads(path.read_text()) for path in sorted(here.rglob("metrics.json"))]
    assert [report["method"] for report in reports] == [own, "mine"]
    assert reports[0]["batches"][0]["layers"] == reports[1]["batches"][0]["layers"]


def test_compare_takes_a_registered_method_and_a_file(own: str, here: Path, workplace: Path) -> None:
    methods = f"{own},mine.yaml,{own}:prior=equal"
    small = [f"--config={workplace}/tiny.yaml", "--data.limit=2", "--out", "out"]
    assert main(["compare", "--methods", methods, *small]) == 0
    table = (here / "out" / "compare.md").read_text()
    assert [line.split(" | ")[0] for line in table.splitlines()[2:6]] == [
        "| before", f"| {own}", "| mine", f"| {own}:prior=equal"
    ]  # fmt: skip


@pytest.mark.slow
def test_tune_takes_a_registered_method_and_a_file(own: str, here: Path, workplace: Path) -> None:
    small = [f"--config={workplace}/tiny.yaml", "--data.limit=2", "--fixed-layers", "0,1", "--overwrite"]
    for name in (own, "mine.yaml"):
        assert main(["tune", "--for", name, "--out", "tuned.yaml", *small]) == 0
        table = (here / "lightning_logs" / "tune" / "tuned.tuning.md").read_text()
        assert f"| alpha | {Path(name).stem} | " in table  # α is the only number of its own that a search knows


def test_a_new_part_is_one_function_and_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    half = Part(lambda method, spectrum: null_space_filter(spectrum, 0.5, kind="dimensions"), ("ridge",))
    monkeypatch.setitem(FILTERS, "half", half)
    chosen = named_method("alphaedit", filter="half")
    assert "threshold" not in chosen.acting
    model, same = tiny_model("gpt2"), tiny_model("gpt2")
    options = {**LEARNING, "prior_strength": 1.0}
    aeplus.edit(
        model, tiny_tokenizer(), records()[:3], chosen, **{n: v for n, v in options.items() if n[:5] != "thres"}
    )
    aeplus.edit(same, tiny_tokenizer(), records()[:3], "alphaedit", **{**options, "threshold": 0.5})
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in same.state_dict().items())


def test_traits_are_what_the_rest_asks_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILTERS, "mine", FILTERS["null_space"])
    monkeypatch.setitem(PRIORS, "own", PRIORS["resolve"])
    monkeypatch.setitem(TREATMENTS, "sparse", TREATMENTS["sparsify"])
    monkeypatch.setitem(UPDATES, "solved", UPDATES["closed_form"])
    chosen = Method(filter="mine", relax="aligned", prior="own", treatment="sparse", feedback=True, update="solved")
    same = Method(filter="null_space", relax="aligned", prior="resolve", treatment="sparsify", feedback=True)
    assert chosen.acting == same.acting
    assert kept_eigenvectors(chosen, "outside").name == kept_eigenvectors(same, "outside").name  # type: ignore[union-attr]
    update = sparsify(LowRankUpdate(torch.randn(4, 2), torch.randn(2, 6)), torch.randn(4, 6), 0.5)
    added = [added_last(method, [update], [2], [torch.randn(6, 2)]) for method in (chosen, same)]
    assert torch.equal(*(found.dense() for found in added if found is not None))
    twice = [EditRequest("The capital of {} is", "Rome", answer) for answer in ("Paris", "London")]
    with pytest.warns(UserWarning, match="method.prior: own takes them for different facts"):
        possible_rewrites(chosen, [twice[0], replace(twice[1], prompt="Seat of {} is")], 1, 0)
    monkeypatch.setitem(UPDATES, "learned", UPDATES["gradient"])
    with pytest.raises(InputError, match=r"smoothing with method\.update: learned, which has no closed form"):
        Method(update="learned")


@pytest.mark.parametrize(
    ("name", "switches", "text"),
    [
        ("memit", {}, "expected a new method's name, got 'memit', which is registered"),
        ("My-Method", {}, "expected a method's name of small letters, digits and _, got 'My-Method'"),
        ("mine", {"filtre": "soft"}, r"expected fields of a method \(name, update, .*\), got filtre; check the names"),
        (
            "mine",
            {"filter": "hard"},
            "expected method.filter out of null_space, .*, null_soft, priced, got 'hard'",
        ),
        ("mine", {"filter": "soft"}, "expected filter null_space or null_soft for method.relax to widen, got 'soft'"),
    ],
)
def test_what_cannot_be_registered(name: str, switches: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        register_method(name, switches)
    assert "mine" not in METHODS


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, r"got missing.yaml \(No such file or directory\); correct it"),
        ("model: {layers: [1]}\n", r"got missing.yaml \(it has no model.method\)"),
        ("- 1\n", r"got missing.yaml \(it has no model.method\)"),
        ("model: {method: {filtre: soft}}\n", "got filtre; check the names"),
    ],
)
def test_a_file_that_holds_no_method(here: Path, content: str | None, text: str) -> None:
    if content is not None:
        (here / "missing.yaml").write_text(content)
    with pytest.raises(InputError, match=text):
        find_composition("missing.yaml")


# ---- what acts


def test_which_numbers_act() -> None:
    always = {"double"}
    null_space = {"threshold", "threshold_kind", "ridge", *always}
    smoothing = {"smoothing_steps", "smoothing_share", "smoothing_threshold", "smoothing_mode"}
    smoothing |= {"selection", "selection_scope"}
    searched = {"epsilon", "relative", "search_block", "search_unsmoothed"}
    aligned = {"aligned_share", "aligned_left", "aligned_power", "aligned_floor", "aligned_leakage", "facts_leakage"}
    aligned.add("search_unsmoothed")
    strength = {"prior_strength", "prior_by_place"}
    expected = {
        "memit": {"alpha", *always},
        "memit_sequential": {"alpha", *strength, *always},
        "rect": {"alpha", "keep_share", "feedback", *always},
        "prune": {"alpha", "restrain_base", "restrain_every", "feedback", *always},
        "kde": {"gradient", *always},
        "alphaedit": {*strength, *null_space},
        "encore": {"alpha", "ridge", *strength, *always},
        "memit_blue": {"alpha", *strength, *always},
        "blue": {*strength, "own_ridge", *null_space},
        "alphaedit_plus": {*strength, "own_ridge", *null_space, *(aligned - {"search_unsmoothed"})},
        "alphaedit_plus_paper": {*strength, *searched, *null_space, *smoothing},
        "alphaedit_plus_published": {*strength, *searched, *null_space, *smoothing},
        "prune_plus": {
            *strength,
            "restrain_base",
            "restrain_every",
            "feedback",
            *null_space,
            *aligned,
            *smoothing,
        },
        "blue_plus": {*strength, "own_ridge", *null_space, *aligned, *smoothing},
    }
    assert {name: set(named_method(name).acting) for name in METHODS} == expected


def test_which_methods_have_a_null_space() -> None:
    found = {name for name in FILTERS if named_method("alphaedit", filter=name).has_null_space}
    assert found == {"null_space", "null_soft", "priced"}
    assert not named_method("kde").has_null_space


def test_a_number_that_does_not_act_is_reported_by_edit() -> None:
    with pytest.warns(UserWarning, match="alpha changes nothing: alphaedit does not use it"):
        aeplus.edit(
            tiny_model("gpt2"), tiny_tokenizer(), records()[:1], "alphaedit", **{**LEARNING, "steps": 2, "alpha": 3.0}
        )


def test_a_selection_without_candidates_is_reported() -> None:
    options = {**LEARNING, "steps": 2, "selection": "best"}
    with pytest.warns(UserWarning, match="selection changes nothing: alphaedit_plus does not use it"):
        aeplus.edit(tiny_model("gpt2"), tiny_tokenizer(), records()[:1], "alphaedit_plus", **options)


def test_a_flag_that_does_not_act_is_reported_by_fit(
    here: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["fit", f"--config={workplace}/tiny.yaml", "--config", "method/alphaedit", "--data.limit=1"]
    assert main([*small, "--model.method.alpha", "3", "--model.method.ridge=2.0"]) == 0
    said = capsys.readouterr().err
    assert "aeplus: --model.method.alpha changes nothing: alphaedit does not use it" in said
    assert "method.ridge" not in said


def test_one_of_two_ridges_acts() -> None:
    assert "ridge" in named_method("blue").acting
    assert "ridge" in named_method("alphaedit", own_ridge=3.0).acting
    assert named_method("blue", own_ridge=3.0).idle(["ridge", "own_ridge"]) == ["ridge"]


def test_numbers_that_do_not_act_change_nothing() -> None:
    """The claim of ``acting``, on the tiny model: every other number is changed and the weights stay the same."""
    others: dict[str, Any] = {
        "threshold": 0.3, "alpha": 7.0, "ridge": 0.7, "own_ridge": 0.9, "prior_strength": 3.0, "epsilon": 0.5,
        "prior_by_place": True, "search_block": 3, "search_unsmoothed": True, "selection_scope": "layer",
        "aligned_share": 0.9, "aligned_left": 0.3, "aligned_power": 2.0, "aligned_floor": 0.1, "aligned_leakage": 0.5,
        "facts_leakage": 0.2,
        "relative": True, "max_rank": 1, "max_leakage": 0.1, "max_growth": 3.0, "smoothing_steps": 4,
        "smoothing_share": 0.9, "smoothing_threshold": 0.1, "smoothing_mode": "sequential", "keep_share": 0.1,
        "main_energy": 0.9, "main_strength": 0.1, "restrain_base": 2.0,
        "restrain_every": 1,
    }  # fmt: skip
    numbers = {f.name for f in fields(Method)} - {*SWITCHES, "name", "double", "gradient", "threshold_kind", "feedback"}
    assert set(others) == numbers
    base = {**LEARNING, "steps": 5, "alpha": 1.0, "batch_size": 3}
    for name in ("memit", "rect", "prune", "alphaedit", "blue", "kde"):
        chosen = named_method(name)
        idle = {number: value for number, value in others.items() if number not in chosen.acting}
        plain, changed = tiny_model("gpt2"), tiny_model("gpt2")
        acting = {n: v for n, v in base.items() if n not in others or n in chosen.acting}
        aeplus.edit(plain, tiny_tokenizer(), records(), name, **acting)
        with pytest.warns(UserWarning, match="changes nothing"):
            aeplus.edit(changed, tiny_tokenizer(), records(), name, **acting, **idle)
        for weight, value in plain.state_dict().items():
            assert torch.equal(changed.state_dict()[weight], value), (name, weight)


# ---- what comes out of it


@pytest.mark.parametrize("page", ["README.md", "docs/methods/index.md"])
def test_the_tables_of_the_documentation_are_the_registrys(page: str) -> None:
    link = "docs/methods/{name}.md" if page == "README.md" else "{name}.md"
    text = (ROOT / page).read_text()
    assert text.split("<!-- methods -->\n")[1].split("\n<!-- /methods -->")[0] == methods_table(link)


def test_every_method_names_its_paper() -> None:
    for method in METHODS.values():
        assert method.title, method.name
        assert method.url.startswith("https://"), method.name
        page = (ROOT / "docs" / "methods" / f"{method.name}.md").read_text()
        assert method.url in page, method.name


def test_switches_hold_everything_that_makes_a_method() -> None:
    for name in METHODS:
        assert set(SWITCHES) <= set(method_switches(name))
        assert Method(**method_switches(name)) == named_method(name)


def test_plain_values_make_the_method_again() -> None:
    for method in (named_method("kde", gradient=GradientOptions(steps=7)), named_method("alphaedit_plus")):
        assert Method.from_plain(json.loads(json.dumps(asdict(method)))) == method
    with pytest.raises(InputError, match=r"expected method.gradient.steps above 0, got 0"):
        Method.from_plain({"gradient": {"steps": 0}})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"alpha": "high"}, r"expected method.alpha to be a number, got 'high'; correct it."),
        ({"smooth": "no"}, r"expected method.smooth to be true or false, got 'no'; correct it."),
        ({"max_rank": 1.5}, r"expected method.max_rank to be a whole number, got 1.5; correct it."),
        ({"double": 1}, r"expected method.double to be true or false, got 1; correct it."),
        ({"gradient": 3}, r"expected method.gradient to be a mapping of its numbers, got 3; correct it."),
        ({"gradient": {"stepz": 1}}, r"expected fields of method.gradient \(steps, .*\), got stepz; check the names."),
        ({"gradient": {"steps": True}}, r"expected method.gradient.steps to be a whole number, got True; correct it."),
        ({3: "a"}, r"expected fields of a method \(name, .*\), got 3; check the names."),
    ],
)
def test_values_of_another_kind_are_refused(tmp_path: Path, values: dict[Any, Any], text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"model": {"method": values}}))
    with pytest.raises(InputError, match=text):
        find_composition(str(path))


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("model: {method: {alpha: 1e-2, epsilon: 3.e+2, ridge: 1E3}}")
    method = named_method(find_composition(str(path)))
    assert (method.alpha, method.epsilon, method.ridge) == (0.01, 300.0, 1000.0)


def test_a_registered_method_has_one_name() -> None:
    with pytest.raises(InputError, match=r"expected switches without a name, got 'other' for mine; leave it out."):
        register_method("mine", {"name": "other"})
