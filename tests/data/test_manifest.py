"""Validation sets as files: what is kept, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aeplus.commands.main import main
from aeplus.data.datamodule import EditDataModule
from aeplus.data.manifest import manifest_path, prompt_hash, read_validation, write_validation
from aeplus.data.paraphrase import Rewriter
from aeplus.data.validation import ValidationSet, compose_validation
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError

EDITS = [
    EditRequest(
        "The mayor of {} is",
        f"Town{i}",
        f"Ann{i}",
        rephrase=(f"Town{i} is led by",),
        neighborhood=(Probe(f"The mayor of Village{i} is"),),
        axes=(Probe(f"Who leads Town{i}'s council? It is", "Ann", axis="portability"),),
        generation=(f"Town{i} is famous for",),
    )
    for i in range(20)
]
FACTS = [EditRequest("The mayor of {} is", f"City{i}", f"Bob{i}") for i in range(10)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "validation.jsonl"
    write_validation(path, composed(), EDITS, {"seed": 0})
    return path


def composed() -> ValidationSet:
    return compose_validation(EDITS, FACTS, Rewriter(), share=0.2, preserved_count=5)


def test_it_reads_what_was_written(path: Path) -> None:
    assert read_validation(path, EDITS) == composed()
    manifest = json.loads(manifest_path(path).read_text())
    assert manifest["settings"] == {"seed": 0}
    assert sorted(map(prompt_hash, composed().prompts)) == manifest["prompts"]
    assert len(manifest["tests"]) == 4 * len(EDITS)
    assert prompt_hash("  town3 IS led by ") in manifest["tests"]


def test_a_part_of_the_stream_in_another_order(path: Path) -> None:
    """Items find their edits by what they ask, not by their place."""
    stream = EDITS[::-1][3:17]
    found = read_validation(path, stream)
    whole = composed()
    expected = {(EDITS[i].subject, item.prompt, item.answer) for i, item in whole.firsts.items() if EDITS[i] in stream}
    assert {(stream[i].subject, item.prompt, item.answer) for i, item in found.firsts.items()} == expected
    assert 0 < len(found.firsts) < len(whole.firsts)
    indices = [item.request_index for item in found.rewrites]
    assert indices == sorted(indices)
    assert all(stream[item.request_index].target_new == item.answer for item in found.rewrites)
    assert found.preserved == whole.preserved


FIELDS: list[Callable[[str], dict[str, tuple[object, ...]]]] = [
    lambda text: {"rephrase": (text,)},
    lambda text: {"neighborhood": (Probe(text),)},
    lambda text: {"axes": (Probe(text, "Ann", axis="portability"),)},
    lambda text: {"generation": (text,)},
]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", ["first", "rewrite", "preserved"])
def test_an_overlap_with_test_prompts_is_refused(
    path: Path, field: Callable[[str], dict[str, tuple[object, ...]]], kind: str
) -> None:
    line = next(line for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == kind)
    edits = [replace(EDITS[0], **field("  " + line["prompt"].upper())), *EDITS[1:]]  # type: ignore[arg-type]
    with pytest.raises(InputError) as error:
        read_validation(path, edits)
    assert f"got an overlap in 1 of its prompts, the first {line['prompt']!r}; run aeplus" in str(error.value)
    with pytest.raises(InputError, match="contain no test prompt of the edits"):
        write_validation(path.with_name("other.jsonl"), composed(), edits, {})
    assert not path.with_name("other.jsonl").exists()


def test_a_manifest_that_does_not_fit(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    for text in ("".join(lines[1:]), "".join(lines).replace("City", "Borough")):
        path.write_text(text)
        with pytest.raises(InputError, match=r"expected a manifest that matches .*, got one with other prompts"):
            read_validation(path, EDITS)


def test_edits_that_it_was_not_checked_against(path: Path) -> None:
    other = EditRequest("The mayor of {} is", "Paris", "Eve")
    with pytest.raises(InputError, match=r"checked against, got 1 of 21 others, the first 'The mayor of Paris is'"):
        read_validation(path, [*EDITS, other])
    with pytest.raises(InputError, match="got 1 of 1 others"):
        read_validation(path, [replace(EDITS[0], target_new="Eve")])


def test_edits_without_an_item(path: Path) -> None:
    stream = [edit for i, edit in enumerate(EDITS) if i not in composed().firsts]
    with pytest.raises(InputError, match="got none for any of these 16; run aeplus"):
        read_validation(path, stream)


def test_what_is_missing_or_damaged(path: Path) -> None:
    manifest = manifest_path(path)
    text = manifest.read_text()
    for broken, reason in (
        (text[:100], "got something that is not JSON in line"),
        ("[]", r"got something else \(field list indices must"),
        ('{"prompts": 3}', r"got something else \(field "),
        ('{"prompts": []}', r"got something else \(field 'tests'\)"),
    ):
        manifest.write_text(broken)
        with pytest.raises(InputError, match=rf"expected the manifest of .*, {reason}"):
            read_validation(path, EDITS)
    manifest.unlink()
    with pytest.raises(InputError, match=r"expected the manifest of .*, got a file that cannot be read \(No such file"):
        read_validation(path, EDITS)
    with pytest.raises(InputError, match=r"expected a validation file .*none, got a file that cannot be read"):
        read_validation(path.with_name("none"), EDITS)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot be read \(invalid start byte\)"):
        read_validation(path, EDITS)


@pytest.mark.parametrize("line", ["[1]", '{"prompt": "The mayor"}', '{"kind": "first", "prompt": "P", "answer": "A"}'])
def test_a_line_that_is_no_item(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=r"validation\.jsonl, line \d+: expected an item of a validation set, with"):
        read_validation(path, EDITS)


def test_a_line_that_is_not_json(path: Path) -> None:
    path.write_text(path.read_text() + "not JSON\n")
    with pytest.raises(
        InputError, match=r"expected a validation file .*, got something that is not JSON in line \d+ of"
    ):
        read_validation(path, EDITS)


def test_the_file_of_another_format(path: Path) -> None:
    path.write_text('{"prompt": "The mayor of {} is", "subject": "Oslo", "target_new": "Eve"}\n')
    with pytest.raises(InputError, match=r"line 1: .* with kind \(first, rewrite, preserved\) and prompt, got {'"):
        read_validation(path, EDITS)


# ---- in a stream


def test_a_stream_is_scored_by_the_file(path: Path) -> None:
    """Items are due with their batch, out of date once their fact is edited again, and of the file only."""
    edits = [replace(edit, fact=f"f{i}") for i, edit in enumerate(EDITS)]
    again = [replace(e, prompt="In the town of {} rules", target_new=f"New{i}") for i, e in enumerate(edits)]
    whole = compose_validation([*edits, *again], FACTS, Rewriter(), share=0.2, preserved_count=5)
    write_validation(path, whole, [*edits, *again], {}, overwrite=True)
    data = EditDataModule(batch_size=20, validation=str(path), preserved_count=999).attach([*edits, *again])
    data.setup("fit")
    assert data.validation == whole
    first = data.validation_items()
    data.cursor = 20
    second = data.validation_items()
    for items, kind in ((first, "Ann"), (second, "New")):
        for aspect, count in (("efficacy", 4), ("generalization", 12)):
            answers = [str(item.answer) for item in items if item.aspect == aspect]
            assert len(answers) == count
            assert all(answer.startswith(kind) for answer in answers)
        assert [item.answer for item in items if item.aspect == "specificity"] == [p.answer for p in whole.preserved]


def test_a_run_refuses_what_overlaps(path: Path) -> None:
    prompt = composed().prompts[0]
    data = EditDataModule(validation=str(path)).attach([replace(EDITS[0], axes=(Probe(prompt),)), *EDITS[1:]])
    with pytest.raises(InputError, match="contain no test prompt of the edits, got an overlap in 1 of its prompts"):
        data.setup("fit")
    with pytest.raises(InputError, match="contain no test prompt"):  # not only once
        data.setup("fit")


def test_the_file_is_among_the_settings(path: Path) -> None:
    assert EditDataModule(validation=str(path)).settings["validation"] == str(path)


# ---- the command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, edits in (("edits", EDITS), ("facts", FACTS)):
        lines = [
            {"prompt": e.prompt, "subject": e.subject, "target_new": e.target_new, "rephrase": e.rephrase}
            for e in edits
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def build(*words: str) -> int:
    return main(["build-validation", "--edits", "edits.jsonl", "--out", "v.jsonl", "--overwrite", *words])


def test_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build("--k0", "facts.jsonl", "--share", "0.2", "--preserved", "5") == 0
    text = "v.jsonl: 4 of 20 edits and 5 preserved facts in 21 prompts, none of them among 20 test prompts"
    assert text in capsys.readouterr().out
    settings = json.loads((here / "v.jsonl.manifest.json").read_text())["settings"]
    assert settings == {
        "edits": "edits.jsonl",
        "k0": "facts.jsonl",
        "corpus": None,
        "share": 0.2,
        "preserved": 5,
        "portion": "1/1",
        "seed": 0,
        "rewriting": {"rewriter": "templates", "counts": {"templates": 21}},
    }
    edits = [replace(e, neighborhood=(), axes=(), generation=()) for e in EDITS]
    assert read_validation(here / "v.jsonl", edits) == composed()
    written = (here / "v.jsonl").read_bytes()
    assert build("--k0", "facts.jsonl", "--share", "0.2", "--preserved", "5") == 0
    assert (here / "v.jsonl").read_bytes() == written


def test_portions_of_the_command(here: Path) -> None:
    parts = []
    for i in (1, 2, 3):
        assert build("--k0", "facts.jsonl", "--portion", f"{i}/3") == 0
        parts.append({json.loads(line)["prompt"] for line in (here / "v.jsonl").read_text().splitlines()})
    assert all(len(part) == 2 * 4 + 3 for part in parts)
    assert len(set.union(*parts)) == 33


def test_text_in_place_of_facts(here: Path) -> None:
    sentence = "It was on a {} day of the year that the people of the old town went to the river."
    (here / "text.txt").write_text("\n\n".join(sentence.format(n) for n in range(50)))
    assert build("--corpus", "text.txt", "--preserved", "7") == 0
    lines = [json.loads(line) for line in (here / "v.jsonl").read_text().splitlines()]
    preserved = [line for line in lines if line["kind"] == "preserved"]
    assert len(preserved) == 7
    assert {line["answer"] for line in preserved} == {None}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--portion", "2"], "expected a portion I/N"),
        (["--portion", "3/2"], "expected a portion I/N"),
        (["--portion", "0/2"], "got '0/2'"),
        (["--k0", "facts.jsonl", "--portion", "1/11"], "n at most 10 for a share of 0.1, got 1/11"),
        (["--k0", "facts.jsonl", "--share", "2"], "expected a validation share from 0 to 1, got 2.0"),
        (["--k0", "none.jsonl"], "none.jsonl"),
        (["--rewriter", "lm"], "expected --rewriter-model with --rewriter lm, got none"),
        (["--k0", "facts.jsonl", "--preserved", "-1"], "preserved facts of at least 0, got -1"),
    ],
)
def test_what_the_command_refuses(here: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(*words) == 2
    assert text in capsys.readouterr().err
    assert not (here / "v.jsonl").exists()


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    for command, options in (
        ("build-validation", "edits out k0 corpus share preserved portion rewriter rewriter-model seed"),
        (
            "build-alphaset",
            "edits k0 model layers out scale sizes candidates steps learning-rate clamp corpus corpus-tokens rewriter "
            "rewriter-model seed",
        ),
    ):
        assert main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert all(f"  --{option} " in text for option in options.split())


def test_edits_of_an_earlier_run_need_not_be_in_it(path: Path) -> None:
    """A run that goes on from a journal: the file is made for the edits that come after it."""
    earlier = [replace(edit, subject=f"Old {edit.subject}") for edit in EDITS[:3]]
    alone = read_validation(path, EDITS)
    assert read_validation(path, [*earlier, *EDITS], before=3) == ValidationSet(
        tuple(replace(item, request_index=item.request_index + 3) for item in alone.rewrites),
        alone.preserved,
        {index + 3: replace(item, request_index=index + 3) for index, item in alone.firsts.items()},
    )
    data = EditDataModule(batch_size=3, validation=str(path)).attach(EDITS)
    data.follow(earlier)
    assert (data.cursor, set(data.validation.firsts)) == (3, {index + 3 for index in alone.firsts})
    again = EditDataModule(batch_size=3, validation=str(path)).attach(EDITS)
    again.follow([*earlier, *EDITS[:3]])  # it begins with the last of those made
    assert (again.cursor, set(again.validation.firsts)) == (6, set(data.validation.firsts))
    measured = EditDataModule(batch_size=3, validation=str(path)).attach(EDITS)
    measured.include([EDITS[0], *earlier, *EDITS[1:3]])
    assert set(measured.validation.firsts) == {0 if index == 0 else index + 3 for index in alone.firsts}
    tested = replace(earlier[0], axes=(Probe(alone.rewrites[0].prompt),))
    with pytest.raises(InputError, match="to contain no test prompt of the edits, got an overlap in 1 of its prompts"):
        read_validation(path, [tested, *EDITS], before=1)
