"""`docs/paper.md` names code, tests and fields that exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from aeplus.methods.method import Method

ROOT = Path(__file__).parents[2]
CODE = re.findall(r"`([^`\n]+)`", (ROOT / "docs/paper.md").read_text(encoding="utf-8"))
LEMMAS = ROOT / "tests/functional/test_lemmas.py"


def source(path: str) -> str:
    """The text of a file named relative to the repository, the package or the tests."""
    candidates = [ROOT / path, ROOT / "src/aeplus" / path, ROOT / "tests" / path]
    existing = [candidate for candidate in candidates if candidate.exists()]
    assert existing, f"docs/paper.md names {path}, which does not exist"
    return existing[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted({code for code in CODE if re.fullmatch(r"[\w/.-]+\.(py|yaml)(::\w+)?", code)}))
def test_files_and_names_exist(name: str) -> None:
    path, _, member = name.partition("::")
    text = source(path)
    assert not member or re.search(rf"^\s*(def|class) {member}\b|^{member}\b.*=", text, re.MULTILINE), name


def test_every_lemma_test_is_listed() -> None:
    defined = set(re.findall(r"^def (test_\w+)", LEMMAS.read_text(encoding="utf-8"), re.MULTILINE))
    assert defined == {code.rpartition("::")[2] for code in CODE if code.rpartition("::")[2].startswith("test_lemma_")}


def test_fields_exist() -> None:
    settings = (re.fullmatch(r"(\w+): [\w.]+", code) for code in CODE)
    named = {match[1] for match in settings if match}
    assert len(named) > 5
    assert named <= {field.name for field in fields(Method)}
