import pytest
import torch

from aeplus.errors import InputError
from aeplus.models.tokens import encode, pad
from tiny import tiny_tokenizer


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_boundaries(bos: bool, side: str) -> None:
    tokenizer = tiny_tokenizer(side, bos)
    (row,) = encode(tokenizer, ["The capital of France is"], ["Paris in Italy"], [len("The capital of France")])
    assert tokenizer.decode(row.answer_ids).strip() == "Paris in Italy"
    assert tokenizer.decode(row.ids[: row.mark + 1], skip_special_tokens=True) == "The capital of France"
    assert (row.ids[0] == tokenizer.bos_token_id) == bos


def test_subject_that_is_split_into_many_tokens() -> None:
    tokenizer = tiny_tokenizer()
    (row,) = encode(tokenizer, ["Ouagadougou is in"], ["Oslo"], [len("Ouagadougou")])
    assert row.mark > 1
    assert tokenizer.decode(row.ids[: row.mark + 1]) == "Ouagadougou"


def test_no_answer_and_trailing_space() -> None:
    tokenizer = tiny_tokenizer()
    plain, spaced = encode(tokenizer, ["Rome is", "Rome is "], [None, "the"])
    assert plain.answer == len(plain.ids)
    assert tokenizer.decode(spaced.ids) == "Rome is the"


def test_too_long_names_the_text_and_both_lengths() -> None:
    with pytest.raises(
        InputError, match="to fit the model's context of 4 tokens, got 6 tokens for 'Rome is the capital"
    ):
        encode(tiny_tokenizer(), ["Rome is the capital of"], ["Italy"], limit=4)


def test_closing_token_is_left_out() -> None:
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    (row,) = encode(tokenizer, ["Rome is"], ["big"])
    assert row.ids[-1] != 1


def test_rows_are_padded_to_the_longest() -> None:
    rows = [[5, 6, 7], [8], []]
    ids, mask = pad(rows, "right")
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0], [0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    ids, mask = pad(rows, "left", 9)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 8], [9, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert pad(rows[:2], "left", None)[0].tolist() == [[5, 6, 7], [8, 8, 8]]
    ids, mask = pad([[], []], "left")
    assert (ids.shape, ids.dtype, mask.dtype) == ((2, 0), torch.long, torch.long)
