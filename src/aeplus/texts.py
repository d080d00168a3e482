"""Texts as they are written: how prompt and answer are joined, and where a subject stands in a prompt.

One rule joins a prompt with what follows it (:func:`separator`), and everything that edits, measures or shows an edit
uses it. A subject is found as a word (:func:`find_subject`), whatever Unicode form either text has.
"""

import re
import unicodedata
from typing import Literal, get_args

from aeplus.errors import InputError

Join = Literal["auto", "space", "none"]
"""How prompt and answer are joined: by what the texts are, by one space, or by nothing."""
JOINS: tuple[Join, ...] = get_args(Join)

# Scripts that write words without spaces between them, as ranges of code points.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x2E80, 0x312F),  # CJK radicals, CJK punctuation, Hiragana, Katakana, Bopomofo
    (0x31A0, 0x9FFF),  # more Bopomofo, CJK strokes, CJK compatibility, Han
    (0xA9E0, 0xA9FF),  # Myanmar
    (0xAA60, 0xAA7F),  # Myanmar
    (0xF900, 0xFAFF),  # Han compatibility
    (0xFE30, 0xFE4F),  # CJK compatibility forms
    (0xFF00, 0xFF9F),  # full-width forms, half-width Katakana
    (0x1B000, 0x1B16F),  # more Kana
    (0x20000, 0x3FFFF),  # more Han
)
_DIGITS = "0123456789"
_OPENING = frozenset("/\\@<¿¡")  # nothing stands between these and what follows
_TIGHT = frozenset("-‐‑–—=")  # nor between these, where they close up with what precedes
_STRAIGHT = frozenset("\"'`*_~")  # they open and close
_REVERSED = {"“": "„‚", "‘": "‚", "«": "»", "‹": "›"}  # they close where one of the others has opened
_CLOSING = frozenset(",;:!?)]}%…”’»›.")
_JOINERS = frozenset("\u200d\u200c\u2060")


def check_join(rule: str, name: str = "join") -> None:
    """Checks the name of a rule.

    Raises:
        InputError: If it is unknown.
    """
    if rule not in JOINS:
        msg = f"expected {name} to be auto, space or none, got {rule!r}; choose one of these."
        raise InputError(msg)


def unspaced(character: str) -> bool:
    """Whether a character belongs to a script that writes words without spaces (Chinese, Japanese, Thai, …)."""
    code = ord(character)
    return code >= _UNSPACED[0][0] and any(first <= code <= last for first, last in _UNSPACED)


def separator(prompt: str, answer: str, rule: str = "auto") -> str:
    r"""What stands between a prompt and its answer: one space or nothing.

    Whitespace that either text has at that place is kept, and nothing is added to it. By the rule ``auto`` nothing is
    added either behind an opening quote, bracket or tag, a slash, a hyphen of a word, an elision (``l'``) or a script
    without spaces, nor before a comma and the like.

    Args:
        prompt: The prompt.
        answer: What follows it.
        rule: ``auto``; ``space``, a space unless there is whitespace; ``none``, nothing.

    Example:
        >>> separator("The capital is", "Rome"), separator("The capital is\n", "Rome"), separator("首都是", "罗马")
        (' ', '', '')
    """
    if rule == "none" or not prompt or not answer or prompt[-1].isspace() or answer[0].isspace():
        return ""
    if rule == "space":
        return " "
    return "" if _closes_up(prompt, answer) else " "


def joined(prompt: str, answer: str | None, rule: str = "auto") -> str:
    """A prompt with its answer; see :func:`separator`. Without an answer, the prompt as it is."""
    return prompt + separator(prompt, answer, rule) + answer if answer else prompt


def tidied(prompt: str, answer: str, rule: str = "auto") -> tuple[str, str]:
    r"""Prompt and answer without the spaces that :func:`joined` puts there anyway, and none after the answer.

    The joined text is the same, but for spaces at its end. (A prompt that ends in a space is cut into other tokens
    than the beginning of the joined text.)

    Example:
        >>> tidied("The capital is ", "Rome "), tidied("The capital is\n", "  Rome")
        (('The capital is', 'Rome'), ('The capital is\n', '  Rome'))
    """
    answer = answer.rstrip(" ") or answer
    whole = joined(prompt, answer, rule)
    for head, tail in (
        (prompt.rstrip(" "), answer.lstrip(" ")),
        (prompt, answer.lstrip(" ")),
        (prompt.rstrip(" "), answer),
    ):
        if head and tail and joined(head, tail, rule) == whole:
            return head, tail
    return prompt, answer


def _closes_up(prompt: str, answer: str) -> bool:
    last, before = prompt[-1], prompt.rstrip(prompt[-1])[-1:]
    opens = not before or before.isspace() or unicodedata.category(before) in ("Ps", "Pi")
    if _closing(answer):
        return True
    if unspaced(last):
        return True
    if last in _OPENING or prompt.endswith("::") or re.search(r"<\|?[A-Za-z_][^<>]*>$", prompt):
        return True
    if last == "#":  # not that of C#
        return not before.isalnum()
    if last in _TIGHT:
        return not opens
    if last in "'’":
        return opens or (before not in _DIGITS and _elision(prompt) and not _open_quote(prompt))
    if last in _STRAIGHT:
        odd = len(re.findall(f"{re.escape(last)}+", prompt)) % 2 == 1
        mark = before in _DIGITS or (last == "*" and before.isalnum())  # of inches, of a footnote
        return opens or before in "=:" or (odd and not mark)
    if last in _REVERSED:
        openers = sum(prompt.count(opener) for opener in _REVERSED[last])
        return opens or openers < prompt.count(last) or not openers
    category = unicodedata.category(last)
    if category in ("Ps", "Pi"):
        return True
    if category == "Pf":  # a closing quote that opens, as in Danish and Swedish
        return opens
    if category == "Sc":
        return before not in _DIGITS or opens
    return unspaced(answer[0]) and _mostly_unspaced(prompt)


def _closing(answer: str) -> bool:
    """Whether an answer begins with punctuation that closes up with what precedes it."""
    first, rest = answer[0], answer[1:2]
    if first in "'’":
        name = re.match(r"['’][st](?:(-)|\s+)(\w)", answer)  # 's-Hertogenbosch, 't Hooft
        clitic = re.match(r"['’](?:s|t|d|m|re|ve|ll)\b", answer) is not None
        return clitic and not (name and (name[1] or name[2].isupper()))
    if first == "." and rest.isalnum():  # a number, or a name such as .NET
        return False
    if (title := re.match(r"(?:[.…!?]+|:)([^\W\d_])", answer)) and not unspaced(title[1]):  # ...And Justice for All
        return False
    return first in _CLOSING or (unspaced(first) and unicodedata.category(first) in ("Po", "Pe", "Pf"))


def _elision(prompt: str) -> bool:
    """Whether an apostrophe at the end stands for a letter (``l'``) rather than for a possessive (``dogs'``)."""
    match = re.search(r"(\w+)['’]$", prompt)
    return match is not None and (len(match[1]) == 1 or not match[1].casefold().endswith("s"))


def _open_quote(prompt: str) -> bool:
    """Whether a single quote at the end closes one that began before."""
    quotes = re.findall(r"(?:(?<=\s)|^|(?<=[(\[{]))['‘](?=\S)", prompt)
    closed = re.findall(r"(?<=\S)['’](?=[\s.,;:!?)\]}])", prompt[:-1])
    return len(quotes) > len(closed)


def _mostly_unspaced(prompt: str) -> bool:
    """Whether a prompt is in a script without spaces though it ends with a foreign word or a mark."""
    letters = sum(unspaced(c) and c.isalnum() for c in prompt)
    words = [word for word in re.findall(r"[^\W\d_]+", prompt) if not all(map(unspaced, word))]
    return letters > 2 * len(words)


# ---- Unicode forms and words


def canonical(text: str) -> str:
    """The text in Unicode's composed form (NFC), in which texts are compared."""
    return unicodedata.normalize("NFC", text)


def joins_word(left: str, right: str) -> bool:
    """Whether two characters next to each other belong to one word (or one letter, or one emoji).

    Scripts without spaces have no such borders, and Korean particles follow a noun directly: there every place between
    two letters may be the end of a word.
    """
    if not left or not right:
        return False
    if unicodedata.category(right).startswith("M") or left in _JOINERS or right in _JOINERS:
        return True
    if "\U0001f3fb" <= right <= "\U0001f3ff":  # skin tones
        return True
    if unspaced(left) or unspaced(right):
        return False
    return _word_character(left) and _word_character(right)


def _word_character(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")


def is_word(text: str, start: int, end: int) -> bool:
    """Whether a part of a text, neither empty, is whole words; see :func:`joins_word`."""
    hangul = "가" <= text[end - 1] <= "힣" and "가" <= text[end : end + 1] <= "힣"
    ends = not joins_word(text[end - 1], text[end : end + 1]) or hangul
    return ends and not joins_word(text[start - 1 : start] if start else "", text[start])


def find_word(text: str, part: str) -> tuple[int, int] | None:
    """Where a text contains a part as whole words for the last time: start and end, in characters of the text.

    Looked for as it is, then in Unicode's composed form, then in its compatibility form.

    Example:
        >>> find_word("Iranians in Iran eat", "Iran"), find_word("Iranian food is", "Iran")
        ((12, 16), None)
    """
    if not part:
        return None
    start = text.rfind(part)
    while start >= 0:
        if is_word(text, start, start + len(part)):
            return start, start + len(part)
        start = text.rfind(part, 0, start + len(part) - 1)
    for form in ("NFC", "NFKC"):
        wanted = unicodedata.normalize(form, part)
        if wanted not in unicodedata.normalize(form, text):
            continue
        for begin in reversed(range(len(text))):
            for end in range(begin + 1, min(len(text), begin + 4 * len(part) + 4) + 1):
                if unicodedata.normalize(form, text[begin:end]) == wanted and is_word(text, begin, end):
                    return begin, end
    return None
