"""Records of different subjects, changed answers and rewritten records."""

from dataclasses import replace

from aeplus.commands.alphaset.answers import Answers, as_present, gather, one_per_subject, rewritten
from aeplus.data.paraphrase import Refusal, Rewriter
from aeplus.edits import EditRequest, Probe
from aeplus.utils.progress import Progress

CAPITAL, LANGUAGE = "The capital of {} is", "People in {} speak"
POOL = [
    EditRequest(CAPITAL, "Chad", "Rome", aliases=("Roma",), axes=(Probe("In Chad's capital they eat", "pizza"),)),
    EditRequest(CAPITAL, "Peru", "ROME", rephrase=("Peru is governed from",)),
    EditRequest(CAPITAL, "Cuba", "Oslo", target_true="Havana"),
    EditRequest(CAPITAL.upper(), "Mali", "Bern"),
    EditRequest(LANGUAGE, "Iran", "Dutch"),
    EditRequest(LANGUAGE, "PERU", "Welsh"),
]


def test_one_record_per_subject() -> None:
    assert [r.subject for r in one_per_subject(POOL)] == ["Chad", "Peru", "Cuba", "Mali", "Iran"]
    assert [r.subject for r in one_per_subject(POOL, {"chad", "iran"})] == ["Peru", "Cuba", "Mali"]
    (alone,) = one_per_subject([replace(POOL[0], case="7")])
    assert (alone.case, alone.axes) == ("", ())


def test_answers_are_of_the_same_form_and_never_the_old_one() -> None:
    answers = Answers(POOL)
    assert answers.others(POOL[0]) == ["Oslo", "Bern"]  # not ROME
    assert answers.others(replace(POOL[0], aliases=("bern",))) == ["Oslo"]
    assert answers.others(replace(POOL[0], target_true="OSLO")) == ["Bern"]
    assert answers.others(replace(POOL[0], subject="Oslo")) == ["Bern"]
    assert answers.others(POOL[4]) == ["Welsh"]
    assert answers.others(EditRequest("{} plays", "Ann", "chess")) == []
    drawn = {answers.changed(POOL[0], seed).target_new for seed in range(20)}  # type: ignore[union-attr]
    assert drawn == {"Oslo", "Bern"}


def test_what_tested_the_old_answer_is_dropped() -> None:
    changed = Answers(POOL).changed(POOL[0], 0)
    assert changed is not None
    assert (changed.aliases, changed.axes, changed.prompt) == ((), (), CAPITAL)


def test_what_cannot_be_changed() -> None:
    long = EditRequest("Of all that one may want to know " * 20 + "the capital of {} is", "Chad", "Rome")
    assert Answers([long, replace(long, target_new="Oslo")]).changed(long, 0) is None  # no template is different enough
    assert Answers(POOL).changed(EditRequest("{} plays", "Ann", "chess"), 0) is None


def test_what_is_true_now() -> None:
    assert as_present(POOL[2]).target_new == "Havana"
    assert as_present(POOL[0]).target_true == "Rome"


def test_material() -> None:
    facts = [EditRequest(CAPITAL, "Cuba", "Havana"), EditRequest("{} plays", "Ann", "chess")]
    material = gather(POOL, facts, 0)
    assert [edit.subject for edit in material.pool] == ["Chad", "Peru", "Mali", "Iran"]  # Cuba is preserved
    assert [change.subject for _, change in material.fact_changes] == ["Cuba"]
    assert [change.subject for _, change in material.prior_changes] == ["Chad", "Peru", "Mali"]
    assert (material.supply.edits, material.supply.priors, material.supply.facts) == (4, 3, 1)
    for fact, change in material.fact_changes + material.prior_changes:
        assert change.target_new.casefold() != fact.target_new.casefold()
    given = {change.target_new for _, change in material.prior_changes}
    assert given <= {"Rome", "ROME", "Bern", "Havana"}  # what is true of K0 may serve; Cuba's new answer is not taken


def test_rewritten_records() -> None:
    pairs = [(POOL[0], replace(POOL[0], target_new="Oslo")), (POOL[1], replace(POOL[1], target_new="Oslo"))]
    (_, chad), (_, peru) = rewritten(pairs, Rewriter(), True, Progress())
    assert chad.prompt.count("{}") == 1
    assert chad.question != pairs[0][1].question
    assert "Chad" in chad.question
    assert chad.rephrase == ("The capital of Chad is",)  # as it was asked
    assert peru.rephrase == ("Peru is governed from",)
    assert rewritten(pairs, Rewriter(), False, Progress())[0][1].rephrase == ()


def test_rewritings_that_give_the_old_answer_away_or_are_test_prompts_are_left_out() -> None:
    class Fixed(Rewriter):
        def _templates(self, fact: EditRequest, have: list[str], count: int, refuse: Refusal | None) -> list[str]:
            text = f"Once it was Rome, and now {fact.subject} is governed from"
            assert refuse is not None
            reasons.append(refuse(fact, text))
            reasons.append(refuse(fact, "Peru is GOVERNED from"))
            return []

    reasons: list[str | None] = []
    assert rewritten([(POOL[1], replace(POOL[1], target_new="Oslo"))], Fixed(), True, Progress()) == []
    assert reasons == ["answer given away", "a test prompt"]


def test_the_subject_of_a_rewriting_is_found_as_the_readers_find_it() -> None:
    class Fixed(Rewriter):
        def _templates(self, fact: EditRequest, have: list[str], count: int, refuse: Refusal | None) -> list[str]:
            known = {"Farsi": "The language of Iran that most Iranians speak is", "Bob": "The head of Orl\u00e9ans is"}
            return [known[fact.target_new]]

    facts = [EditRequest("{} speaks", "Iran", "Farsi"), EditRequest("The mayor of {} is", "Orle\u0301ans", "Bob")]
    done = [change for _, change in rewritten([(f, f) for f in facts], Fixed(), True, Progress())]
    assert [(change.prompt, change.subject) for change in done] == [
        ("The language of {} that most Iranians speak is", "Iran"),
        ("The head of {} is", "Orl\u00e9ans"),
    ]
    assert [change.fact_key[1] for change in done] == [fact.fact_key[1] for fact in facts]
