import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from aeplus.commands.inspect.findings import clashes, token_notes
from aeplus.edits import EditRequest
from tiny import tiny_tokenizer


def words(*vocabulary: str) -> PreTrainedTokenizerFast:
    """A tokenizer that knows some pieces and single letters."""
    pieces = dict.fromkeys([*vocabulary, *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ '-."])
    core = Tokenizer(models.Unigram([("<unk>", 0.0), *((piece, -1.0) for piece in pieces)], unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Sequence([])
    return PreTrainedTokenizerFast(tokenizer_object=core)


def edit(prompt: str, subject: str, target: str = "x", **more: str) -> EditRequest:
    return EditRequest(prompt, subject, target, **more)


@pytest.mark.parametrize(
    ("request_", "vocabulary", "notes"),
    [
        (edit("{} lies in", "Rome"), ["Rome"], []),
        (edit("{}'s capital is", "Rome"), ["Rome's"], ["the subject's last token \"Rome's\" continues after it"]),
        (edit("in-{} there is", "Rome"), ["in-Rome"], ["the subject's first token 'in-Rome' begins before it"]),
        (edit("in {} there is", "Rome"), ["in", " Rome"], []),  # a space belongs to the token after it
        (edit("{} is", "Oslo"), [], ["the subject takes 4 tokens for 1 word"]),
        (edit("{} is", "Abc def"), [], ["the subject takes 7 tokens for 2 words"]),
        (edit("{} is", "Abc de"), [], []),
        (edit("{} is", "Rome", "abcd"), ["Rome"], ["the target takes 5 tokens"]),  # with the space before it
        (edit("{} is", "Rome", "abcd"), ["Rome", " a"], []),
    ],
)
def test_tokenization_warnings(request_: EditRequest, vocabulary: list[str], notes: list[str]) -> None:
    assert token_notes(words(*vocabulary), [request_]) == [notes]


def test_special_tokens_are_no_part_of_a_target() -> None:
    plain, marked = (token_notes(tiny_tokenizer(bos=bos), [edit("The capital of {} is", "Spain")]) for bos in (0, 1))
    assert plain == marked == [["the subject takes 4 tokens for 1 word"]]


def test_edits_of_the_same_fact() -> None:
    stream = [
        edit("The capital of {} is", "France", "Rome"),
        edit("The capital  of {} is", "FRANCE", "Oslo"),
        edit("The capital of {} is", "France", " Rome "),
        edit("The capital of {} is", "Spain", "Rome"),
        edit("{} is governed from", "France", "Bern", fact="capital"),
        edit("The seat of {} is", "the French", "Paris", fact="capital"),
    ]
    found = clashes(stream, 2)
    plain = [([(c.edit, c.batch, c.target) for c in against], [c.edit for c in again]) for against, again in found]
    assert plain == [
        ([(2, 1, "Oslo")], [3]),
        ([(1, 1, "Rome"), (3, 2, " Rome ")], []),
        ([(2, 1, "Oslo")], [1]),
        ([], []),
        ([(6, 3, "Paris")], []),
        ([(5, 3, "Bern")], []),
    ]


def test_a_subject_that_the_tokenizer_does_not_know() -> None:
    from tokenizers_of_kinds import word_piece

    (notes,) = token_notes(word_piece(), [edit("{} is", "🍎", "oslo")])
    assert notes == [
        "the tokenizer does not know the subject's last characters: other such subjects share its key",
    ]


def test_the_place_of_an_edit_is_shown_by_its_tokens() -> None:
    from aeplus.models.tokens import readable
    from aeplus.targets.rows import batch_rows
    from tokenizers_of_kinds import byte_level

    tokenizer = byte_level()
    (row,) = batch_rows(tokenizer, [edit("The {} is", "🍎", "Paris")], [""]).prompts
    pieces = readable(tokenizer, row.ids)
    assert pieces[row.mark] == "🍎[4/4]"
    assert "".join(pieces[row.answer :]) == " Paris"
    assert "".join(piece for piece in pieces if "[" not in piece or "4/4" in piece) == "The 🍎[4/4] is Paris"
