from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from aeplus.commands.compare.specs import parse_seeds, parse_specs, tell_idle
from aeplus.errors import InputError
from aeplus.methods.compositions import method_switches
from aeplus.methods.method import METHODS, Method


def numbers() -> dict[str, Any]:
    """A configuration's ``model.method``."""
    return asdict(Method(ridge=0.25, max_rank=16, threshold=0.7))


def test_all_are_all_methods() -> None:
    specs = parse_specs("all")
    assert [spec.label for spec in specs] == list(METHODS)
    assert [spec.switches for spec in specs] == [method_switches(name) for name in METHODS]


@pytest.mark.parametrize(
    "text", ["alphaedit,alphaedit_plus", "alphaedit alphaedit_plus", " alphaedit,, alphaedit_plus"]
)
def test_commas_and_spaces(text: str) -> None:
    assert [spec.label for spec in parse_specs(text)] == ["alphaedit", "alphaedit_plus"]


def test_what_is_named_twice_runs_once() -> None:
    labels = [spec.label for spec in parse_specs("alphaedit:ridge=2 all alphaedit")]
    assert labels == ["alphaedit:ridge=2", *METHODS]


def test_a_method_goes_over_the_numbers() -> None:
    (spec,) = parse_specs("alphaedit")
    merged = spec.over(numbers())
    assert merged == {**numbers(), **method_switches("alphaedit")}
    assert (merged["ridge"], merged["relax"], merged["name"]) == (0.25, "none", "alphaedit")


def test_a_variant_goes_over_its_method() -> None:
    label = "alphaedit_plus:max_leakage=0.006:max_rank=null:smooth=false:epsilon=1e-5:ridge=.5:gradient.steps=7"
    (spec,) = parse_specs(label)
    assert spec.label == label
    merged = spec.over(numbers())
    expected = {**numbers(), **method_switches("alphaedit_plus"), "name": label}
    expected |= {"max_leakage": 0.006, "max_rank": None, "smooth": False, "epsilon": 1e-5, "ridge": 0.5}
    expected["gradient"] = {**expected["gradient"], "steps": 7}
    assert merged == expected


@pytest.mark.parametrize(
    ("label", "own_ridge", "idle"),
    [
        ("alphaedit_plus:ridge=0.1", 10.0, ["ridge"]),
        ("alphaedit_plus:ridge=0.1", None, []),
        ("alphaedit_plus:smoothing_steps=2", None, ["smoothing_steps"]),
        ("alphaedit_plus:smooth=true:smoothing_steps=2", None, []),
        ("memit:gradient.steps=2:gradient.steps=3:max_rank=4:alpha=2", None, ["gradient.steps", "max_rank"]),
        ("kde:gradient.steps=2", None, []),
        ("alphaedit", None, []),  # whose own numbers nobody has given
    ],
)
def test_numbers_of_a_variant_that_change_nothing(
    capsys: pytest.CaptureFixture[str], label: str, own_ridge: float | None, idle: list[str]
) -> None:
    (spec,) = parse_specs(label)
    assert spec.idle({**numbers(), "own_ridge": own_ridge}) == idle
    tell_idle(label, idle)
    name = label.split(":")[0]
    said = [f"aeplus: {label}: {field} changes nothing: {name} does not use it" for field in idle]
    assert capsys.readouterr().err.splitlines() == said


def test_every_field_can_be_set() -> None:
    """All fields at their defaults, written out, are the defaults."""
    defaults = asdict(Method())
    flat = {name: value for name, value in defaults.items() if name != "gradient"}
    flat |= {f"gradient.{name}": value for name, value in defaults["gradient"].items()}
    words = [f"{name}={'null' if value is None else str(value).lower()}" for name, value in flat.items()]
    (spec,) = parse_specs("rect:" + ":".join(words))
    assert spec.over(numbers()) == defaults


def test_folders_differ_and_suit_any_file_system() -> None:
    folders = [s.folder for s in parse_specs("all alphaedit:ridge=1 alphaedit:ridge=1.0 alphaedit:ridge=+1")]
    assert len(set(folders)) == len(folders)
    assert not set(':/\\*?"<>| ') & set("".join(folders))


def test_a_method_of_ones_own_comes_from_a_file(tmp_path: Path) -> None:
    own, named, taken = (tmp_path / name for name in ("own.yaml", "named.yaml", "rect.yaml"))
    own.write_text("model: {method: {filter: covariance, relax: none, smooth: false, gradient: {steps: 7}}}")
    named.write_text("model: {method: {name: own, relax: none}}")
    taken.write_text("model: {method: {relax: none}}")
    plain, variant = parse_specs(f"{own} {own}:ridge=2")
    assert (plain.label, variant.label) == ("own", "own:ridge=2")
    merged = variant.over(numbers())
    assert (merged["name"], merged["filter"], merged["ridge"], merged["max_rank"]) == (
        "own:ridge=2", "covariance", 2, 16,
    )  # fmt: skip
    assert merged["gradient"] == {**numbers()["gradient"], "steps": 7}
    with pytest.raises(InputError, match="expected methods of different names, got own twice"):
        parse_specs(f"{own} {named}")
    with pytest.raises(InputError, match="rect"):
        parse_specs(str(taken))
    with pytest.raises(InputError, match=r"expected a YAML file with model: .*nothing\.yaml"):
        parse_specs(str(tmp_path / "nothing.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected methods (all, or some out of memit, "),
        ("rct", "memit_sequential, rect, prune, .* got 'rct'; write name or name:field=value"),
        ("alphaedit:relx=none", "expected a field out of name, .* relax, .* got 'relx' in 'alphaedit:relx=none'"),
        ("alphaedit:gradient=1", "gradient.steps, .* got 'gradient'"),
        ("alphaedit:relax", "expected field=value after each colon, got 'relax' in 'alphaedit:relax'"),
        ("alphaedit:relax=", "expected field=value"),
        ("alphaedit:name=../up", "expected field=value"),
    ],
)
def test_what_cannot_be_parsed(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        parse_specs(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "alphaedit:ridge=much",
            "expected a number as ridge, got 'much' in 'alphaedit:ridge=much'; choose another",
        ),
        ("alphaedit:gradient.steps=0.5", "expected a whole number as gradient.steps, got '0.5'"),
        ("alphaedit:max_growth=much", "expected a number or null as max_growth, got 'much'"),
        ("alphaedit:max_rank=true", "expected a whole number or null as max_rank, got 'true'"),
        ("alphaedit:smooth=1", "expected true or false as smooth, got '1'"),
        ("alphaedit:relax=lots", "expected one of none, aligned, bounded, paper as relax, got 'lots'"),
        ("alphaedit:ridge=0", "--methods alphaedit:ridge=0: expected method.ridge above 0, got 0"),
        ("alphaedit_plus:filter=soft", "expected filter null_space or null_soft for method.relax"),
    ],
)
def test_values_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_specs(text)[0].over(numbers())


def test_seeds() -> None:
    assert parse_seeds("0, 2 1,2") == [0, 2, 1]


@pytest.mark.parametrize("text", ["", "1,x", "-1", "0.5"])
def test_what_is_no_seed(text: str) -> None:
    with pytest.raises(InputError, match="expected seeds"):
        parse_seeds(text)
