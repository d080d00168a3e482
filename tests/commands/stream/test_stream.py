"""Streams from a pool: what each kind edits, what it asks, and that the sides of a pool share no subject."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aeplus.commands.main import main
from aeplus.commands.stream import arguments, command
from aeplus.commands.stream.kinds import KINDS, Draw, DrawnStream, build_stream
from aeplus.commands.stream.pool import is_tuning, make_pool, opened
from aeplus.data.readers import read_requests
from aeplus.edits import EditRequest, Probe, normal, still_holding
from aeplus.errors import InputError

FORMS = {"capital": "The capital of {} is", "river": "The longest river of {} is the", "king": "Who rules {}? It is"}


def pool_requests(subjects: int = 30) -> list[EditRequest]:
    """Three facts of each subject."""
    return [
        EditRequest(
            form,
            f"Land{number:03}x",
            f"{name} new {number % 7}",
            rephrase=(f"Data asks {name} of Land{number:03}x",),
            statements=(f"Of Land{number:03}x, the {name} is",),
            target_true=f"{name} true {number}",
            id=f"{name}-{number}",
        )
        for number in range(subjects)
        for name, form in FORMS.items()
    ]


def stream(kind: str, count: int = 12, seed: int = 0, **more: Any) -> DrawnStream:
    return build_stream(kind, make_pool(pool_requests(), "test"), Draw(count, seed, **more))


def test_the_kinds_of_the_command_line() -> None:
    assert set(arguments.KINDS) == set(KINDS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "inconsistent"])
def test_same_seed_same_stream(kind: str) -> None:
    first, again, other = (stream(kind, seed=seed) for seed in (0, 0, 1))
    assert len(first.edits) == 12
    assert first == again
    assert [edit.question for edit in first.edits] != [edit.question for edit in other.edits]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "inconsistent"])
def test_a_stream_asks_nothing_that_it_edits(kind: str) -> None:
    edits = stream(kind).edits
    edited = {normal(edit.question) for edit in edits}
    subjects = {normal(edit.subject) for edit in edits}
    asked = [(edit, probe) for edit in edits for probe in edit.neighborhood]
    assert asked
    for edit, probe in asked:
        assert normal(probe.prompt) not in edited
        assert not any(other in normal(probe.prompt) for other in subjects - {normal(edit.subject)})


def test_sides_share_no_subject_whatever_the_seed() -> None:
    others = tuple(Probe(f"The capital of Land{number:03}x is") for number in range(200))
    requests = [replace(request, neighborhood=others) for request in pool_requests(200)]
    tuning, test = make_pool(requests, "tuning"), make_pool(requests, "test")
    subjects = [{record.subject for record in part.records} for part in (tuning, test)]
    assert not subjects[0] & subjects[1]
    assert len(subjects[0] | subjects[1]) == 200
    assert 10 <= len(subjects[0]) <= 50
    drawn = [build_stream("plain", tuning, Draw(5, seed)).edits for seed in range(3)]
    assert all(is_tuning(edit.subject) for edits in drawn for edit in edits)
    for edit in drawn[0]:  # not even as neighbors
        assert not any(subject in probe.prompt for subject in subjects[1] for probe in edit.neighborhood)
    assert make_pool(requests, "all").records == requests


def test_a_case_in_letters_does_not_change_sides() -> None:
    assert all(is_tuning(f"Land {n}") == is_tuning(f"LAND  {n}") for n in range(50))


def test_plain_asks_in_three_ways() -> None:
    edits = stream("plain").edits
    assert len({edit.subject for edit in edits}) == 12
    edit = next(edit for edit in edits if edit.prompt == FORMS["capital"])
    assert edit.openings == (
        f"It is said that the capital of {edit.subject} is",
        f"According to the latest news, the capital of {edit.subject} is",
    )
    assert edit.statements == (f"Of {edit.subject}, the capital is",)
    assert edit.rephrase == (f"Data asks capital of {edit.subject}",)
    others = [probe for probe in edit.neighborhood if edit.subject not in probe.prompt]
    assert len(others) == 5
    assert len(edit.neighborhood) == 7  # two other facts of the subject


def test_only_the_ways_that_are_wanted() -> None:
    edit = stream("plain", tests=("openings",)).edits[0]
    assert edit.openings
    assert not edit.statements
    assert not edit.rephrase


def test_a_question_has_another_opening() -> None:
    assert opened(EditRequest("Who rules {}? It is", "X", "Y")).prompt == "A visitor asked: Who rules {}? It is"
    assert opened(EditRequest("In {}, one speaks", "X", "Y"), 1).prompt == (
        "According to the latest news, in {}, one speaks"
    )


def test_own_neighbors_stay_unless_they_are_edited() -> None:
    requests = pool_requests(6)
    own = tuple(Probe(f"Own question {n}", "an answer") for n in range(5))
    named = Probe(requests[3].question, "old")  # of the second subject
    requests = [replace(request, neighborhood=(*own, named)) for request in requests]
    edits = build_stream("plain", make_pool(requests, "all"), Draw(6)).edits
    assert all(edit.neighborhood[:5] == own for edit in edits)
    assert not any(named in edit.neighborhood for edit in edits)


def test_rewrites_come_later_with_another_answer() -> None:
    edits = stream("rewrites", count=15).edits
    holds = still_holding(edits)
    assert holds.count(False) == 5
    assert not any(holds[i] for i, edit in enumerate(edits) if edit.fact in {e.fact for e in edits[10:]} and i < 10)
    for edit in edits[10:]:
        first = next(other for other in edits[:10] if other.fact == edit.fact)
        assert edit.id == f"{first.id}-again"
        assert edit.subject == first.subject
        assert edit.prompt != first.prompt
        assert edit.target_new not in (first.target_new, first.target_true)
        assert first.question in edit.openings
        assert edit.question not in edit.openings
        assert not first.paraphrases


def test_the_share_of_rewrites() -> None:
    assert sum(not holds for holds in still_holding(stream("rewrites", count=12, share=1.0).edits)) == 6
    assert all(still_holding(stream("rewrites", count=12, share=0.0).edits))
    for count, share in itertools.product((1, 2, 5, 7, 9), (0.1, 0.5, 1.0)):
        edits = stream("rewrites", count=count, share=share).edits
        assert len(edits) == count
        assert still_holding(edits).count(False) <= count // 2


def test_same_subject_in_one_batch_and_over_batches() -> None:
    edits = stream("same_subject", count=18, batch=6).edits
    batches = [{edit.subject: 0 for edit in edits[start : start + 6]} for start in range(0, 18, 6)]
    places = {edit.subject: [i for i, batch in enumerate(batches) if edit.subject in batch] for edit in edits}
    assert sorted(map(len, places.values())) == [1, 1, 1, 3, 3, 3]
    assert all(sum(edit.subject == subject for edit in edits) == 3 for subject in places)


def test_preserved_names_the_other_facts() -> None:
    found = stream("preserved", count=8)
    assert len({edit.subject for edit in found.edits}) == 8
    assert len(found.facts) == 16
    for edit in found.edits:
        facts = [fact for fact in found.facts if fact.subject == edit.subject]
        assert {fact.prompt for fact in facts} == set(FORMS.values()) - {edit.prompt}
        assert all(fact.target_new.partition(" ")[2].startswith("true") for fact in facts)
        assert {fact.question for fact in facts} <= {probe.prompt for probe in edit.neighborhood}
        assert not any(fact.paraphrases or fact.neighborhood for fact in facts)


def test_two_records_with_one_answer_are_no_two_facts() -> None:
    one = EditRequest("{} speaks", "Ann", "French", target_true="Dutch")
    two = EditRequest("The language of {} is", "Ann", "Greek", target_true="Dutch")
    unknown = EditRequest("{} lives in", "Ann", "Rome")
    pool = make_pool([one, two, unknown], "all")
    assert pool.by_subject(0) == []
    assert build_stream("plain", pool, Draw(1)).edits[0].neighborhood == ()


def test_inconsistent_takes_the_largest_residuals() -> None:
    seen: list[EditRequest] = []

    def residuals(edits: Any) -> list[float]:
        seen.extend(edits)
        return [float(edit.subject[4:7]) for edit in edits]

    edits = stream("inconsistent", count=4, residuals=residuals, candidates=10).edits
    assert len(seen) == 10
    assert not any(edit.paraphrases or edit.neighborhood for edit in seen)
    assert {e.subject for e in edits} == {e.subject for e in sorted(seen, key=lambda e: -float(e.subject[4:7]))[:4]}


def test_a_long_stream_begins_with_a_shorter_one() -> None:
    short, long = (stream("long", count=count).edits for count in (10, 40))
    assert [edit.question for edit in long[:10]] == [edit.question for edit in short]


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("plain", "facts of different subjects"),
        ("long", "facts"),
        ("rewrites", "facts of different subjects with two other answers"),
        ("same_subject", "facts of subjects with several, whose true answers are known"),
        ("preserved", "subjects with several facts, whose true answers are known"),
        ("inconsistent", "facts of different subjects"),
    ],
)
def test_too_small_a_pool(kind: str, what: str) -> None:
    with pytest.raises(
        InputError, match=rf"expected a pool with \d+ {what}, got \d+; choose a smaller --count, or a larger pool\.$"
    ):
        stream(kind, count=1000)


def test_no_record_of_a_side() -> None:
    subject = next(f"S{n}" for n in range(100) if not is_tuning(f"S{n}"))
    with pytest.raises(InputError, match="expected records of the split 'tuning', got none among 1 facts; give a"):
        make_pool([EditRequest("{} is", subject, "new")], "tuning")


def write_pool(path: Path) -> Path:
    lines = [
        {"prompt": r.prompt, "subject": r.subject, "target_new": r.target_new, "target_true": r.target_true}
        for r in pool_requests()
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    return path


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool, out = write_pool(tmp_path / "pool.jsonl"), tmp_path / "streams" / "one.jsonl"
    args = ["build-stream", "--kind", "preserved", "--data.path", str(pool), "--count", "6", "--out", str(out)]
    assert main(args) == 0
    assert main(args) == 0  # its own file is replaced
    assert f"6 edits (preserved, seed 0, split test) in {out}" in capsys.readouterr().out
    edits, facts = read_requests(out), read_requests(out.with_name("one.facts.jsonl"))
    assert (len(edits), len(facts)) == (6, 12)
    assert edits == build_stream("preserved", make_pool(read_requests(pool), "test"), Draw(6)).edits


def test_nothing_of_the_users_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool, mine = write_pool(tmp_path / "pool.jsonl"), tmp_path / "mine.jsonl"
    mine.write_text("mine", "utf-8")
    base = ["build-stream", "--kind", "preserved", "--data.path", str(pool), "--count", "3"]
    for out, facts, message in (
        (pool, tmp_path / "f.jsonl", "expected --out a path that is not an input"),
        (mine, tmp_path / "f.jsonl", "expected --out a new file, or one that aeplus wrote"),
        (tmp_path / "new.jsonl", pool, "expected --facts-out a path that is not an input"),
        (tmp_path / "new.jsonl", tmp_path / "new.jsonl", "expected --facts-out a path that is not an input"),
        (tmp_path / "new.jsonl", mine, "expected --facts-out a new file, or one that aeplus wrote"),
    ):
        assert main([*base, "--out", str(out), "--facts-out", str(facts)]) == 2
        assert message in capsys.readouterr().err
    assert mine.read_text("utf-8") == "mine"
    assert not (tmp_path / "new.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "0"], "expected --count to be at least 1, got 0; choose a larger number."),
        (["--share", "2"], "expected --share from 0 to 1, got 2.0; choose for example 0.5, half of the facts."),
        (["--tests", "openings,other"], "expected --tests out of openings, statements, rephrase, got other; correct"),
        (["--tests", ","], "expected --tests out of openings, statements, rephrase, got none; correct it."),
        (["--layers", "x"], "expected layers after --layers, got 'x'; write for example --layers 4,5,6,7,8."),
    ],
)
def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    pool = write_pool(tmp_path / "pool.jsonl")
    args = ["build-stream", "--kind", "plain", "--data.path", str(pool), "--out", str(tmp_path / "o.jsonl"), *options]
    assert main(args) == 2
    assert message in capsys.readouterr().err


def test_the_facts_file() -> None:
    assert command.facts_path(Path("a/b.jsonl")) == Path("a/b.facts.jsonl")
    assert command.facts_path(Path("b")) == Path("b.facts.jsonl")


def test_neighbors_of_the_other_side_only_where_the_own_are_too_few() -> None:
    requests = [request for request in pool_requests(60) if request.prompt == FORMS["capital"]]
    pool = make_pool(requests, "test")
    few = build_stream("plain", pool, Draw(10)).edits
    assert not any(is_tuning(probe.prompt.split()[3]) for edit in few for probe in edit.neighborhood)
    all_but_two = build_stream("plain", pool, Draw(len(pool.records) - 2)).edits
    for edit in all_but_two:
        asked = [is_tuning(probe.prompt.split()[3]) for probe in edit.neighborhood]
        assert asked == [False, False, *[True] * (len(asked) - 2)]
        assert len(asked) == min(5, 2 + len(pool.spare))


def kept_by(edits: list[EditRequest], subject: str) -> list[str]:
    return [probe.prompt for edit in edits if edit.subject == subject for probe in edit.neighborhood]


def test_a_subject_is_a_word_of_the_prompts_that_are_left_out() -> None:
    forms = {"It": "{} was directed by", "Oman": "The anthem of {} is"}
    names = ["It", "Oman", "Romania", "Peru", "Chad"]
    own = (Probe("Most Omanis speak", "Arabic"), Probe("The citizens of Oman are", "Omanis"))
    requests = [EditRequest(forms.get(name, "The citizenship of {} is"), name, "new") for name in names]
    requests = [replace(request, neighborhood=own) for request in requests]
    stream = build_stream("plain", make_pool(requests, "all"), Draw(4, seed=3)).edits
    left = next(name for name in names if name not in {edit.subject for edit in stream})
    assert left in ("Romania", "Peru", "Chad")  # "citizenship" has "it", "Romania" has "Oman"
    for name in {"Romania", "Peru", "Chad"} - {left}:
        assert kept_by(stream, name) == ["Most Omanis speak", f"The citizenship of {left} is"]


def test_edits_that_are_left_without_neighbors_are_counted() -> None:
    requests = [EditRequest("The language of {} is", name, "new") for name in ("Peru", "Chad", "The")]
    with pytest.warns(UserWarning, match=r"^no neighbors are left to 3 of 3 edits \(such as 'The language of") as seen:
        assert not any(edit.neighborhood for edit in build_stream("plain", make_pool(requests, "all"), Draw(3)).edits)
    assert "names a subject that the stream edits; Specificity is not measured there" in str(seen[0].message)


def test_further_tests_ask_nothing_that_is_edited_or_barred() -> None:
    barred, free = (next(f"S{n}" for n in range(100) if is_tuning(f"S{n}") is side) for side in (False, True))
    others = [f"T{n}" for n in range(100) if is_tuning(f"T{n}")][:2]
    prompts = [f"The mother of {name} is" for name in (barred, free, *others)]
    axes = tuple(Probe(prompt, "Liz", (), "Relation") for prompt in prompts)
    requests = [EditRequest("The father of {} is", name, "new", axes=axes) for name in (*others, barred)]
    edits = build_stream("plain", make_pool(requests, "tuning"), Draw(2)).edits
    asked = {edit.subject: [probe.prompt for probe in edit.axes] for edit in edits}
    assert asked == {name: [prompts[1], f"The mother of {name} is"] for name in others}


def test_a_rewrite_keeps_no_test_of_the_old_answer() -> None:
    requests = [replace(r, axes=(Probe(f"Hey, {r.question}", r.target_new, (), "persona"),)) for r in pool_requests()]
    edits = build_stream("rewrites", make_pool(requests, "all"), Draw(12)).edits
    assert [bool(edit.axes) for edit in edits[8:]] == [False] * 4
    assert [bool(edit.axes) for edit in edits[:8]] == still_holding(edits)[:8]


def test_a_record_keeps_its_own_openings() -> None:
    record = EditRequest("{} is in", "Ann", "Oslo", openings=("They say Ann is in",))
    (edit,) = build_stream("plain", make_pool([record], "all"), Draw(1)).edits
    assert edit.openings == (
        "They say Ann is in",
        "It is said that Ann is in",
        "According to the latest news, Ann is in",
    )
