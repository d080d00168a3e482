"""Prompts rendered by the tokenizer's chat template."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

import aeplus
from aeplus.callbacks import EvaluationWriter
from aeplus.data.chat import ChatTemplate
from aeplus.data.datamodule import EditDataModule
from aeplus.data.readability import ModelLimits
from aeplus.data.readers import requests_from_records
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError
from aeplus.evaluation.questions import edit_items
from aeplus.models.tokens import encode, token_ids
from aeplus.run.committed.entries import plain_edit, request_from
from aeplus.targets.rows import batch_rows
from small import LEARNING, SMALL
from tiny import tiny_model
from tokenizers_of_kinds import byte_level

PLAIN = (
    "{% for m in messages %}<|user|>{{ m.role }}\n{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no system turn here') }}{% endif %}{% endfor %}"
)


def tokenizer_with(template: str | None, added: str = "") -> Any:
    tokenizer = byte_level(added=added)
    tokenizer.chat_template = template
    return tokenizer


EDIT = EditRequest(
    "What is the capital of {}?", "France", "Rome", ("Who rules France?",), (Probe("Who rules Italy?"),), id="x"
)


@pytest.mark.parametrize("template", [PLAIN, PLAIN.replace(" | trim", "")])
@pytest.mark.parametrize("subject", ["France", "assistant", "user"])
def test_what_a_chat_says_before_and_behind_the_prompt_makes_no_prompt_one_of_the_subject(
    template: str, subject: str
) -> None:
    probes = tuple(Probe(text) for text in ("Who rules Italy?", f"Who loves {subject}", f"{subject}, or "))
    turns = (("system", f"You know all about {subject}."), ("user", f"{subject}?"), ("assistant", "Yes."))
    edit = replace(EDIT, prompt="What is the capital of {}? ", subject=subject, neighborhood=probes, turns=turns)
    asked = edit_items([ChatTemplate(tokenizer_with(template)).edit(edit)])
    ways = [item.way for item in asked if item.aspect == "specificity"]
    assert ways == ["other_subjects", "same_subject", "same_subject"]


def test_prompts_and_tests_are_what_a_chat_sends() -> None:
    tokenizer = tokenizer_with(PLAIN)
    edit = ChatTemplate(tokenizer).edit(EDIT)
    sent = tokenizer.apply_chat_template(
        [{"role": "user", "content": EDIT.question}], tokenize=False, add_generation_prompt=True
    )
    assert edit.question == sent
    assert edit.question[: edit.subject_end].endswith("France")
    assert edit.rephrase[0].startswith("<|user|>user\nWho rules France?\n<|user|>assistant")
    asked = ChatTemplate(tokenizer).edit(replace(EDIT, openings=("So: France?",), statements=("France, or",)))
    assert asked.openings[0].startswith("<|user|>user\nSo: France?\n<|user|>assistant")
    assert asked.statements[0].startswith("<|user|>user\nFrance, or")
    assert edit.neighborhood[0].prompt.startswith("<|user|>user\nWho rules Italy?")
    assert edit.join == "none"
    (row,) = batch_rows(tokenizer, [edit], [""]).prompts
    assert list(row.ids) == tokenizer(sent + "Rome")["input_ids"]
    assert tokenizer.decode(row.answer_ids) == "Rome"


def test_contexts_stand_in_the_users_turn() -> None:
    tokenizer = tokenizer_with(PLAIN)
    edit = ChatTemplate(tokenizer).edit(EDIT)
    _, row = batch_rows(tokenizer, [edit], ["", "I know. "]).prompts
    assert tokenizer.decode(row.ids).startswith("<|user|>user\nI know. What is the capital of France?\n")
    assert tokenizer.decode(row.ids[: row.mark + 1]).endswith("I know. What is the capital of France")


def test_answers_are_joined_as_the_template_joins_them() -> None:
    template = ChatTemplate(tokenizer_with(BRACKETS))
    assert template.join == "space"
    edit = template.edit(EDIT)
    assert edit.question == "<s>[INST] What is the capital of France? [/INST]"


@pytest.mark.parametrize("template", [PLAIN, BRACKETS])
def test_the_template_alone_says_whether_there_is_bos(template: str) -> None:
    tokenizer = tokenizer_with(template, "both")
    edit = ChatTemplate(tokenizer).edit(EDIT)
    marked = ChatTemplate(tokenizer).tokenizer()
    (row,) = encode(marked, [edit.question], [edit.target_new], joins=[edit.join])
    separator = " " if edit.join == "space" else ""
    wanted = tokenizer(f"{edit.question}{separator}Rome", add_special_tokens=False)["input_ids"]
    assert list(row.ids) == wanted
    assert token_ids(marked, "The capital")[0] == tokenizer.bos_token_id  # other texts are as before


def test_system_and_earlier_turns() -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Do you know France?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "What is the capital of {}?"},
    ]
    record = {"prompt": chat, "subject": "France", "target_new": "Rome", "rephrase": "And its seat?"}
    (edit,) = requests_from_records([record])
    assert edit.turns[-1] == ("assistant", "Yes.")
    rendered = ChatTemplate(tokenizer_with(PLAIN)).edit(edit)
    start = "<|user|>system\nBe brief.\n<|user|>user\nDo you know France?\n<|user|>assistant\nYes.\n<|user|>user\n"
    assert rendered.question == f"{start}What is the capital of France?\n<|user|>assistant\n"
    assert rendered.rephrase == (f"{start}And its seat?\n<|user|>assistant\n",)
    (short,) = requests_from_records([{**record, "prompt": "Who is {}?", "system": "Be brief."}])
    assert short.turns == (("system", "Be brief."),)
    from aeplus.data.formats.plain import as_record

    assert requests_from_records([as_record(edit)])[0].turns == edit.turns


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (
            [{"role": "user", "content": "{}?"}, {"role": "assistant", "content": "x"}],
            "expected the last message of 'prom",
        ),
        (["{}?"], "expected 'prompt' to be a text or a list of messages, got '{}?' in it; correct it"),
        ([{"role": "user", "content": ""}], "expected content of 'prompt' to be a non-empty string"),
    ],
)
def test_damaged_chats(prompt: Any, text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        requests_from_records([{"prompt": prompt, "subject": "A", "target_new": "x"}])


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"^expected a tokenizer with a chat template for data.chat_template, got"):
        ChatTemplate(tokenizer_with(None))
    with pytest.raises(InputError, match=r"^expected a chat template for the turns system, user, got an .*no sys"):
        ChatTemplate(tokenizer_with(BRACKETS)).text("Who?", [("system", "x")])
    swallows = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(InputError, match="expected a chat template that writes the user's turn as it is"):
        ChatTemplate(tokenizer_with(swallows)).text("who?")
    data = EditDataModule(preserved_count=0).attach([EditRequest("{}?", "A", "x", turns=(("system", "y"),))])
    data.setup("fit")
    with pytest.raises(
        InputError, match=r"expected data\.chat_template: true for a prompt of several turns, got false"
    ):
        data.adapt(ModelLimits(tokenizer_with(PLAIN)), SMALL["corpus"])


def test_a_chat_is_edited_and_asked_as_it_is_sent() -> None:
    # The answer follows the subject directly: a random model can learn that.
    tokenizer = tokenizer_with("{% for m in messages %}<|user|>{{ m.content }}{% endfor %}")
    model = tiny_model(vocab_size=400)
    records = [{"prompt": "The capital of {}", "subject": "France", "target_new": "The", "rephrase": "France"}]
    records[0] |= {"openings": "Now, the capital of France"}
    names = ("steps", "clamp", "kl_factor", "ridge", "threshold", "threshold_kind")
    options = {**SMALL, **{name: LEARNING[name] for name in names}}
    writer = EvaluationWriter(retention=False, bootstrap_samples=0, generation_length=1, contains_length=3)
    result = aeplus.edit(model, tokenizer, records, "alphaedit", chat_template=True, callbacks=[writer], **options)
    assert result.metrics["after"]["efficacy"] == 100
    named = result.metrics["measures"]["after"]["contains"]  # asked without being told: it is a chat
    assert {"generalization_openings", "generalization_rephrasing"} <= named.keys()
    messages = [{"role": "user", "content": "The capital of France"}]
    sent = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(input_ids=sent["input_ids"], max_new_tokens=1, do_sample=False, pad_token_id=1)
    assert tokenizer.decode(answer[0, -1]) == "The"


def test_validation_prompts_are_rendered_and_beginnings_of_text_are_not() -> None:
    data = EditDataModule(preserved_count=2, chat_template=True, snippet_corpus=SMALL["corpus"]).attach([EDIT])
    data.setup("fit")
    data.adapt(ModelLimits(tokenizer_with(PLAIN), 10_000), SMALL["corpus"])
    asked = data.validation_items()
    own = [item for item in asked if item.aspect != "specificity"]
    assert all(item.prompt.startswith("<|user|>user\n") and item.join == "none" for item in own)
    beginnings = [item for item in asked if item.aspect == "specificity"]
    assert all(not item.prompt.startswith("<|user|>") and item.join == "auto" for item in beginnings)
    once = data.requests
    data.adapt(ModelLimits(tokenizer_with(PLAIN), 10_000), SMALL["corpus"])
    assert data.requests == once  # not rendered twice


@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_goes_on_behind_edits_made_before_though_some_were_left_out(chat: bool) -> None:
    tokenizer, limit = tokenizer_with(PLAIN), 60
    edits = [
        EditRequest("The capital of {} is", "France", "Rome"),
        EditRequest("a " * 60 + "{} is", "Italy", "Rome"),
        EditRequest("The city of {} is", "London", "Paris"),
        EditRequest("The king of {} is", "Spain", "Ann"),
    ]

    def stream(earlier: list[EditRequest]) -> EditDataModule:
        data = EditDataModule(preserved_count=0, chat_template=chat, skip_unusable=True).attach(edits)
        if earlier:
            data.follow(earlier)
        data.setup("fit")
        with pytest.warns(UserWarning, match="1 of 4 edits cannot be read by this model"):
            data.adapt(ModelLimits(tokenizer, limit), SMALL["corpus"])
        return data

    first = stream([])
    assert [edit.subject for edit in first.requests] == ["France", "London", "Spain"]
    again = stream(first.requests[:2])
    assert again.requests == first.requests
    assert again.cursor == 2
    assert again.validation.firsts == first.validation.firsts
    plain = request_from(json.loads(json.dumps(plain_edit(first.requests[0]))))
    assert plain == first.requests[0]
    assert ChatTemplate(tokenizer).edit(plain) == plain if chat else not plain.asked
