"""Paraphrases by templates: the default rewriter of the validation set.

A form is of use only if the unedited model answers in it what it knows; in other forms no edit would seem to
generalise, whatever the editor does. Measured on SmolLM2-135M-Instruct: the percentage of the facts answered
in the plain form (greedy, every token of the answer) that it still answers in the template.

Statements, on 38 capitals ("The capital of {} is"), 10 currencies ("The unit of currency in {} is the") and
53 cities ("The city of {} is in the state of"):

| form | all | capital | currency | city |
| --- | --- | --- | --- | --- |
| Remember this: … | 97 | 97 | 100 | 96 |
| Let us talk about {}. … | 97 | 100 | 100 | 94 |
| As the encyclopedia says, … | 96 | 95 | 100 | 96 |
| The encyclopedia has an article on {}, which says that … | 96 | 100 | 100 | 92 |
| I looked it up, and … | 95 | 92 | 90 | 98 |
| Did you know? … | 95 | 97 | 90 | 94 |
| The answer is simple: … | 95 | 97 | 90 | 94 |
| I read a book about {}, and it says that … | 95 | 97 | 100 | 92 |
| About {}: … | 94 | 100 | 90 | 91 |
| The book states that … | 93 | 92 | 90 | 94 |
| Here is a fact: … | 93 | 97 | 90 | 91 |

Left out, being below 90 on one of them: Everyone knows that … (90, capitals 87), According to the
encyclopedia, … (92, 87), Speaking of {}, … (91, currencies 70), It is a known fact that … (89), When it comes
to {}, … (87), As everybody knows, … (87), It is often said that … (83), As we learned at school, … (78), Our
teacher told us that … (78), It is true that … (71), As for {}, … (68), Few people doubt that … (67), There is
no doubt that … (64), Everyone agrees that … (49).

Questions that the beginning of the answer follows, on 34 capitals ("Which city is the capital of {}? The
capital is"), 7 currencies ("What is the currency of {}? The unit of currency is the") and 47 cities ("Which
state is the city of {} in? It is in the state of"); one currency is 14 points:

| form | all | capital | currency | city |
| --- | --- | --- | --- | --- |
| Let me ask you this: … | 98 | 97 | 100 | 98 |
| Think about {}. … | 97 | 97 | 100 | 96 |
| I read a book about {}. … | 97 | 97 | 100 | 96 |
| Today we will learn about {}. … | 97 | 100 | 86 | 96 |
| Please tell me: … | 95 | 94 | 100 | 96 |
| Question: … | 95 | 97 | 86 | 96 |
| Speaking of {}, … | 94 | 97 | 100 | 91 |
| About {}: … | 94 | 100 | 100 | 89 |
| Let us talk about {}. … | 94 | 100 | 86 | 91 |

Left out: Here is a question: …, A question about {}: …, Here is a question about {}. …, Here is an article
about {}. … (93, currencies 71), The next question is about {}. … (92, 57), The encyclopedia has an article
on {}. … (89). Questions without such a beginning ("What is the capital of {}?") could not be measured: the
model answers them with a sentence, and none of the facts as the next words.
"""

from difflib import SequenceMatcher

from aeplus.data.request import SLOT

MAX_SIMILARITY = 0.9
"""Paraphrases stay below this :func:`similarity` to the edit's prompt."""

# {p} is the prompt within a sentence, {P} the prompt after a full stop or colon, {s} the subject.
_STATEMENTS = (
    "Remember this: {P}",
    "Let us talk about {s}. {P}",
    "As the encyclopedia says, {p}",
    "The encyclopedia has an article on {s}, which says that {p}",
    "I looked it up, and {p}",
    "Did you know? {P}",
    "The answer is simple: {p}",
    "I read a book about {s}, and it says that {p}",
    "About {s}: {P}",
    "The book states that {p}",
    "Here is a fact: {P}",
)
_QUESTIONS = (
    "Let me ask you this: {p}",
    "Think about {s}. {P}",
    "I read a book about {s}. {P}",
    "Today we will learn about {s}. {P}",
    "Please tell me: {p}",
    "Question: {P}",
    "Speaking of {s}, {p}",
    "About {s}: {P}",
    "Let us talk about {s}. {P}",
)
# Words whose capital letter only marks the start of a sentence; any other first word may be a name.
_FUNCTION_WORDS = (
    "a after all an and are as at before by did do does for from has he her his how if in into is it its "
    "many most of on one our she some that the their these they this those to under was we were what when "
    "where which who whom whose why with"
)


def similarity(a: str, b: str) -> float:
    """How alike two texts are, from 0 to 1: ``difflib``'s ratio, letter by letter, without regard to case."""
    return SequenceMatcher(None, a.casefold(), b.casefold(), autojunk=False).ratio()


def paraphrases(prompt: str, subject: str) -> list[str]:
    """Say an edit's prompt in other words.

    Args:
        prompt: The edit's own prompt with ``{}`` for the subject, a statement to complete or a question.
        subject: The subject.

    Returns:
        Complete prompts that end as the edit's does, so that the same answer follows; always in the same
        order. Forms too similar to the edit's prompt are left out: a long prompt has fewer, the longest none.
    """
    question = prompt.replace(SLOT, subject)
    first = prompt.split(maxsplit=1)[0] if prompt.strip() else ""
    inner = question[:1].lower() + question[1:] if first.lower() in _FUNCTION_WORDS.split() else question
    # A question may be followed by the beginning of its answer: "Where is {}? It is in".
    templates = _QUESTIONS if "?" in prompt else _STATEMENTS
    texts = (_fill(form, question, inner, subject) for form in templates)
    return [text for text in texts if similarity(text, question) < MAX_SIMILARITY]


def _fill(form: str, question: str, inner: str, subject: str) -> str:
    # The prompt goes last, as it may hold braces of its own.
    head, _, kind = form.rpartition("{")
    return head.replace("{s}", subject) + (question if kind == "P}" else inner)
