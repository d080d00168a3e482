"""The token that ends the subject, for every kind of tokenizer."""

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import normalizers

from aeplus.models.tokens import TokenRow, encode, token_ids
from tiny import tiny_model
from tokenizers_of_kinds import byte_level, unigram, word_piece

KINDS: dict[str, Callable[[], Any]] = {
    "bytes": byte_level,
    "bytes, prefix space": lambda: byte_level(prefix=True),
    "bytes, BOS": lambda: byte_level(added="bos"),
    "bytes, BOS and EOS": lambda: byte_level(added="both"),
    "bytes, NFC": lambda: byte_level(normalizers.NFC()),
    "bytes, NFKC": lambda: byte_level(normalizers.NFKC()),
    "bytes, NFD": lambda: byte_level(normalizers.NFD()),
    "unigram": unigram,
    "unigram, BOS and EOS": lambda: unigram("both"),
}


def marked(tokenizer: Any, before: str, subject: str, after: str) -> TokenRow:
    (row,) = encode(tokenizer, [before + subject + after], ["Oslo"], [len(before + subject)])
    return row


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "subject",
    [
        "🍎",
        "👩‍🚀",
        "中国",
        "한국",
        "ไทย",
        "Ann Ď",
        "Beyoncé",
        "Beyonce\u0301",
        "\u1112\u1161\u11ab",
        "ﬁ",
        "x㎏",
        "naïve",
    ],
)
@pytest.mark.parametrize(("before", "after"), [("The word for ", " is"), ("", " is"), ("the ", "\u7684\u662f")])
def test_everything_of_the_subject_is_read_and_nothing_behind_it(
    kind: str, subject: str, before: str, after: str
) -> None:
    tokenizer = KINDS[kind]()
    row = marked(tokenizer, before, subject, after)
    # The tokenizers join nothing across these borders, so the subject's own tokens are those of the text up to its end.
    assert list(row.ids[: row.mark + 1]) == token_ids(tokenizer, before + subject)


def test_subjects_with_the_same_first_byte_have_other_last_tokens() -> None:
    tokenizer = byte_level()
    apple, car = (marked(tokenizer, "The word for ", emoji, " is") for emoji in "🍎🚗")
    assert apple.ids[: apple.mark + 1] != car.ids[: car.mark + 1]
    assert tokenizer.decode(apple.ids[: apple.mark + 1]) == "The word for 🍎"


def test_word_pieces() -> None:
    tokenizer = word_piece()
    for subject, pieces in (("中国", ["[CLS]", "中", "国"]), ("Beyonce\u0301", ["[CLS]", "be", "##yon", "##ce"])):
        row = marked(tokenizer, "", subject, " is")
        assert tokenizer.convert_ids_to_tokens(list(row.ids[: row.mark + 1])) == pieces
        assert tokenizer.convert_ids_to_tokens(list(row.answer_ids)) == ["oslo"]


@pytest.mark.parametrize("kind", ["bytes, BOS and EOS", "unigram, BOS and EOS"])
def test_the_closing_token_is_left_out_even_without_an_answer(kind: str) -> None:
    tokenizer = KINDS[kind]()
    ids = token_ids(tokenizer, "the 中国")
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids
    (row,) = encode(tokenizer, ["the 中国"])
    assert row == TokenRow(tuple(ids), len(ids))
    assert token_ids(tokenizer, "") == [tokenizer.bos_token_id]


def test_a_text_that_begins_with_bos_gets_no_second_one() -> None:
    tokenizer = byte_level(added="both")
    ids = token_ids(tokenizer, "<s><|user|>🍎</s>")
    assert tokenizer.decode(ids) == "<s><|user|>🍎</s>"
    row = marked(tokenizer, "<s><|user|>", "🍎", " is")
    assert tokenizer.decode(row.ids[: row.mark + 1]) == "<s><|user|>🍎"


def test_contexts_are_sampled_without_a_closing_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from aeplus.targets.rows import sample_contexts

    tokenizer, seen = byte_level(added="both"), []
    model = tiny_model(vocab_size=400)
    generate = model.generate
    monkeypatch.setattr(
        model, "generate", lambda **options: (seen.append(options["input_ids"]), generate(**options))[1]
    )
    sample_contexts(model, tokenizer, 2, 3)
    assert bool((seen[0][:, -1] != tokenizer.eos_token_id).all())
    assert bool((seen[0] == tokenizer.bos_token_id).any())


def test_statistics_read_no_closing_token(tmp_path: Any) -> None:
    from aeplus.preserved.collection import token_windows
    from aeplus.preserved.statistics import PreservedOptions

    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(["The capital of France is Paris."] * 20))
    rows = list(token_windows(byte_level(added="both"), PreservedOptions(str(text), tokens=64, window=32)))
    assert rows
    assert not any(bool((ids == 1).any()) for ids in rows)


@pytest.mark.parametrize("kind", ["bytes", "unigram"])
def test_an_answer_begins_behind_the_prompt_where_both_are_unknown_characters(kind: str) -> None:
    tokenizer = KINDS[kind]()
    (row,) = encode(tokenizer, ["the 🍎的是"], ["紐約"], [len("the 🍎")])
    assert list(row.ids[: row.answer]) == token_ids(tokenizer, "the 🍎的是")
    assert tokenizer.decode(row.answer_ids) == "紐約"
