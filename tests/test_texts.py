"""How prompt and answer are joined, and where a subject stands in a text."""

import pytest

from aeplus.errors import InputError
from aeplus.texts import check_join, find_word, joined, separator, tidied


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("The capital of France is", "Rome"),
        ("Q: Where is Oslo?\nA:", "Norway"),
        ("He called it “good”", "and left"),
        ('He said "yes"', "and left"),
        ("It is called 'Rome'", "and"),
        ("The dogs'", "owner"),
        ("The pipe is 6'2\"", "long"),
        ("He costs 5€", "and"),
        ("The answer -", "Rome"),
        ("한국의 수도는", "서울"),
        ("The Chinese word for China is", "中国"),
        ("The capital of 中国 is", "北京"),
        ("The framework is", ".NET"),
        ("столица Италии", "Рим"),
        ("Stolica (Rom)", "ist"),
        ("Er sagte „ja“", "und"),
        ("The answer is **Rome**", "and"),
        ("This is <b>Rome</b>", "and"),
        ("He wrote _Oz_", "and"),
        ("He programs in C#", "and"),
        ("His height is 5'", "Bob"),
        ("The year is '84'", "and"),
        ("The band AC/DC*", "and"),
        ("[INST] Where is Oz? [/INST]", "Italy"),
    ],
)
def test_a_space_between_words(prompt: str, answer: str) -> None:
    assert joined(prompt, answer) == f"{prompt} {answer}"


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("<|im_start|>assistant\n", "Rome"),
        ("The capital is ", "Rome"),
        ("The capital is\u00a0", "Rome"),
        ('The capital of Norway is "', 'Rome"'),
        ("It is called 'Rome' or '", "Roma'"),
        ("It is called “", "Rome”"),
        ("Es heißt „", "Rom“"),
        ("Il s'appelle «", "Rome»"),
        ("print(", "1)"),
        ("x=", "5"),
        ("The answer is **", "Rome**"),
        ("The answer is <b>", "Rome</b>"),
        ("<|user|>Where is Oz?<|assistant|>", "Italy"),
        ("std::", "vector"),
        ("snake_", "case"),
        ("La pregunta: ¿", "Quién?"),
        ('"""', "A docstring"),
        ("A: ", "Rome"),
        ("Q: Where?\nA:", "\n- in Asia"),
        ("The file lies in /data/", "ada"),
        ("C:\\", "data"),
        ("The French word is l'", "Asie"),
        ("The French word is l’", "Asie"),
        ("mail me @", "ada"),
        ("the self-", "aware"),
        ("It costs $", "5"),
        ("中国的首都是", "北京"),
        ("中国的首都是", "Rome"),
        ("中国的首都是:", "北京"),
        ("他最喜欢用的app", "是微信"),
        ("日本の首都は", "東京"),
        ("เมืองหลวงของไทยคือ", "กรุงเทพ"),
        ("中国的首都是「", "北京」"),
        ("He lives in Oslo", ", Norway"),
        ("He is Ann", "'s son"),
        ("He is Ann", "’s"),
        ("He is Ann", "'s."),
        ("I don", "'t know"),
        ("I", "'m American"),
        ("He left", "…"),
        ("He left", "..."),
        ("He left", "! Then"),
        ("std", "::vector"),
        ("It is 12", ":30"),
        ("他最喜欢用的app", "!是微信"),
        ("The tag is #", "oslo"),
        ("This is *", "Rome*"),
        ("def area(r):\n    return", "\n"),
        ("def area(r):\n", "    return 1"),
    ],
)
def test_nothing_is_added(prompt: str, answer: str) -> None:
    assert joined(prompt, answer) == prompt + answer


NAMES = (
    "'s-Hertogenbosch",
    "’s-Gravenhage",
    "'t Hooft",
    "’t Harde",
    "'n Sync",
    "…And God Created Woman",
    "...And Justice for All",
    ":wumpscut:",
    "!Kung",
    "?uestlove",
    ".NET",
    "A. A. Milne",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_word_whatever_it_begins_with(name: str) -> None:
    for prompt in ("The capital of North Brabant is", "He wrote C++, C#", "It is 5'", "Rome (Italy)", "Der „Rat“"):
        assert joined(prompt, name) == f"{prompt} {name}"
        assert tidied(f"{prompt} ", f" {name} ") == (f"{prompt} ", f" {name}")
        assert tidied(prompt, f" {name}") == (prompt, name)
    for prompt in ("It is called “", "He wrote (", "首都是", "The capital is\n"):
        assert joined(prompt, name) == prompt + name


def test_rules() -> None:
    assert (separator("首都是", "北京", "space"), separator("首都是\n", "北京", "space")) == (" ", "")
    assert separator("The capital is", "Rome", "none") == ""
    assert (joined("Rome", None), joined("Rome ", "")) == ("Rome", "Rome ")
    check_join("none")
    with pytest.raises(InputError, match=r"^expected data.join to be auto, space or none, got 'tab'; choose one of"):
        check_join("tab", "data.join")


@pytest.mark.parametrize(
    ("prompt", "answer", "rule", "tidy"),
    [
        ("The capital is ", " Rome ", "auto", ("The capital is ", " Rome")),  # two spaces are not one
        ("The capital is ", "Rome", "auto", ("The capital is", "Rome")),
        ("The capital is", " Rome ", "auto", ("The capital is", "Rome")),
        ("The capital is ", "Rome", "none", ("The capital is ", "Rome")),
        ("首都是 ", "北京", "auto", ("首都是 ", "北京")),
        ("A:\n", "  Rome\n", "auto", ("A:\n", "  Rome\n")),
    ],
)
def test_spaces_that_are_added_anyway_are_not_kept(prompt: str, answer: str, rule: str, tidy: tuple[str, str]) -> None:
    assert tidied(prompt, answer, rule) == tidy
    assert joined(*tidy, rule).rstrip(" ") == joined(prompt, answer, rule).rstrip(" ")


@pytest.mark.parametrize(
    ("text", "part", "found"),
    [
        ("Iranians in Iran eat", "Iran", (12, 16)),
        ("Iran beats Iran", "Iran", (11, 15)),
        ("Iran plays the Iranians", "Iran", (0, 4)),
        ("Iranian food is", "Iran", None),
        ("Google was built in Go", "Go", (20, 22)),
        ("Google was built by", "Go", None),
        ("Apollo 11 was", "Apollo 1", None),
        ("Iran's food", "Iran", (0, 4)),
        ("中国的首都是", "中国", (0, 2)),
        ("我在中国的家", "中国", (2, 4)),
        ("한국의 수도는", "한국", (0, 2)),
        ("대한국 수도는", "한국", None),
        ("Beyonce\u0301 sings", "Beyonc\u00e9", (0, 8)),
        ("Beyonc\u00e9 sings", "Beyonce\u0301", (0, 7)),
        ("Beyonce\u0301 sings", "Beyonce", None),
        ("The ﬁrst is", "first", (4, 8)),
        ("\u1112\u1161\u11ab sings", "\ud55c", (0, 3)),
        ("👩‍🚀 flies", "👩", None),
        ("f(x) is", "f(x)", (0, 4)),
        ("C++ is", "C++", (0, 3)),
        ("x", "", None),
    ],
)
def test_subjects_are_words(text: str, part: str, found: tuple[int, int] | None) -> None:
    assert find_word(text, part) == found
