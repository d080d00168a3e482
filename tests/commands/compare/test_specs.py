from dataclasses import asdict
from typing import Any

import pytest

from aeplus.commands.compare.specs import parse_seeds, parse_specs
from aeplus.errors import InputError
from aeplus.methods.method import METHODS, Method, method_switches


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected methods (all, or some out of memit, "),
        ("rct", "memit_sequential, rect, prune, .* but 'rct' came; write name or name:field=value"),
        ("alphaedit:relx=none", "expected a field out of name, .* relax, .* but 'relx' came in 'alphaedit:relx=none'"),
        ("alphaedit:gradient=1", "gradient.steps, .* but 'gradient' came"),
        ("alphaedit:relax", "expected field=value behind each colon, but 'relax' came in 'alphaedit:relax'"),
        ("alphaedit:relax=", "expected field=value"),
        ("alphaedit:name=../up", "expected field=value"),
    ],
)
def test_what_cannot_be_read(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        parse_specs(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "alphaedit:ridge=much",
            "expected a number as ridge, but 'much' came in 'alphaedit:ridge=much'; choose another",
        ),
        ("alphaedit:gradient.steps=0.5", "expected a whole number as gradient.steps, but '0.5' came"),
        ("alphaedit:max_growth=much", "expected a number or null as max_growth, but 'much' came"),
        ("alphaedit:max_rank=true", "expected a whole number or null as max_rank, but 'true' came"),
        ("alphaedit:smooth=1", "expected true or false as smooth, but '1' came"),
        ("alphaedit:relax=lots", "expected one of none, bounded, paper as relax, but 'lots' came"),
        ("alphaedit:ridge=0", "'alphaedit:ridge=0' cannot be run: method.ridge must be above 0, but 0"),
        ("alphaedit_plus:filter=soft", "method.relax widens a null space"),
    ],
)
def test_values_that_do_not_fit(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_specs(text)[0].over(numbers())


def test_seeds() -> None:
    assert parse_seeds("0, 2 1,2") == [0, 2, 1]


@pytest.mark.parametrize("text", ["", "1,x", "-1", "0.5"])
def test_what_is_no_seed(text: str) -> None:
    with pytest.raises(InputError, match="expected seeds"):
        parse_seeds(text)
