"""Paraphrases of prompts for the validation set: by templates, or by a language model whose output is checked.

A template is useful only if the unedited model still gives in it the answers that it knows; in any other, no edit
would seem to generalize, whatever the editor does. Measured on SmolLM2-135M-Instruct: the percentage of the facts
answered in the plain form (greedy, every token of the answer) that it also answers in the template.

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

Left out because one of them is below 90: Everyone knows that … (90, capitals 87), According to the
encyclopedia, … (92, 87), Speaking of {}, … (91, currencies 70), It is a known fact that … (89), When it comes
to {}, … (87), As everybody knows, … (87), It is often said that … (83), As we learned at school, … (78), Our
teacher told us that … (78), It is true that … (71), As for {}, … (68), Few people doubt that … (67), There is
no doubt that … (64), Everyone agrees that … (49).

Questions followed by the beginning of the answer, on 34 capitals ("Which city is the capital of {}? The
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
model answers them with a sentence, never with the fact as the next words.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any

from aeplus.edits import SLOT, EditRequest, normal
from aeplus.texts import find_word
from aeplus.utils.progress import Progress

MAX_SIMILARITY = 0.9
"""The :func:`similarity` of a paraphrase to the edit's prompt is below this."""

_COMPARED = 2000  # letters

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
# Words that have a capital letter only at the start of a sentence; any other first word may be a name.
_FUNCTION_WORDS = (
    "a after all an and are as at before by did do does for from has he her his how if in into is it its "
    "many most of on one our she some that the their these they this those to under was we were what when "
    "where which who whom whose why with"
)


def similarity(a: str, b: str) -> float:
    """Similarity of two texts from 0 to 1: ``difflib``'s ratio, letter by letter, case folded.

    Its time is quadratic, so of texts longer than 2,000 letters only as many are compared that way, after what they
    have in common at their beginnings and ends.
    """
    a, b = a.casefold(), b.casefold()
    if max(len(a), len(b)) <= _COMPARED:
        return SequenceMatcher(None, a, b, autojunk=False).ratio()
    start = _common(a, b)
    rest_a, rest_b = a[start:], b[start:]
    end = _common(rest_a[::-1], rest_b[::-1])
    parts = rest_a[: len(rest_a) - end][:_COMPARED], rest_b[: len(rest_b) - end][:_COMPARED]
    between = SequenceMatcher(None, *parts, autojunk=False).ratio() * sum(map(len, parts)) / 2
    return 2 * (start + end + between) / (len(a) + len(b))


def _common(a: str, b: str) -> int:
    """How many letters two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def too_similar(text: str, others: Iterable[str]) -> bool:
    """Whether the :func:`similarity` of a text to any other reaches :data:`MAX_SIMILARITY`."""
    return any(_may_reach(len(text), len(other)) and similarity(text, other) >= MAX_SIMILARITY for other in others)


def _may_reach(a: int, b: int) -> bool:
    """Whether texts of these lengths can be that similar; case folding can change a length by a few letters."""
    return 2 * min(a, b) + 8 >= MAX_SIMILARITY * (a + b)


def paraphrases(prompt: str, subject: str) -> list[str]:
    """Rewords an edit's prompt by templates.

    Args:
        prompt: The edit's own prompt with ``{}`` for the subject, a statement to complete or a question.
        subject: The subject.

    Returns:
        Complete prompts that end as the edit's does, so that the same answer follows; always in the same
        order. Those too similar to the edit's prompt are left out: a long prompt has fewer, the longest none.
    """
    question = prompt.replace(SLOT, subject)
    inner = inside_sentence(prompt).replace(SLOT, subject)
    # A question may be followed by the beginning of its answer: "Where is {}? It is in".
    templates = _QUESTIONS if "?" in prompt else _STATEMENTS
    texts = (_fill(form, question, inner, subject) for form in templates)
    return [text for text in texts if not too_similar(text, [question])]


def inside_sentence(prompt: str) -> str:
    """A prompt as it stands within a sentence: its first letter small, unless it may begin a name.

    Example:
        >>> inside_sentence("The capital of {} is")
        'the capital of {} is'
        >>> inside_sentence("Paris, {}, is")
        'Paris, {}, is'
    """
    first = prompt.split(maxsplit=1)[0] if prompt.strip() else ""
    return prompt[:1].lower() + prompt[1:] if first.lower() in _FUNCTION_WORDS.split() else prompt


def _fill(form: str, question: str, inner: str, subject: str) -> str:
    # The prompt is inserted last: it may contain braces itself.
    head, _, kind = form.rpartition("{")
    return head.replace("{s}", subject) + (question if kind == "P}" else inner)


Refusal = Callable[[EditRequest, str], str | None]
"""A caller's own check of a rewriting: the reason to refuse it, or ``None``."""

# Words that an answer can follow. Another last word is accepted if the prompt itself ends with it.
_LEADS = (
    "is are was were be been being the a an in of by at on as from to for with into than has had have called named "
    "known like plays played speaks spoke lives lived died born works worked located"
)
_EXAMPLES = (
    ("The father of Hamlet is", "The man whose son is Hamlet is"),
    ("Ada Lovelace was born in the city of", "The birthplace of Ada Lovelace is the city of"),
    ("What colour is the flag of Libya?", "Which colour does the flag of Libya have?"),
    ("Penicillin was discovered by", "The one who discovered Penicillin is"),
)
# Tokens by which a rewriting may be longer than the longest prompt of its batch.
_ROOM = 16


def problem(fact: EditRequest, text: str) -> str | None:
    """Why a text cannot replace a fact's prompt; ``None`` if it can.

    It must be one line, contain the subject, differ from the prompt (similarity below 0.9), not reveal the target, and
    end so that the answer follows: a question with its mark, anything else with a word that an answer can follow.
    """
    question = fact.question
    if not text.strip():
        return "empty"
    if len(text.splitlines()) > 1 or text != text.strip():
        return "not one line"
    if not _word(fact.subject, text):
        return "subject lost"
    if SLOT in text.replace(fact.subject, ""):
        return "braces"
    if normal(text) == normal(question):
        return "copy"
    if similarity(text, question) >= MAX_SIMILARITY:
        return "too similar"
    if gives_away(fact, text, fact.target_new):
        return "answer given away"
    return None if _answer_follows(question, text) else "answer does not follow"


def gives_away(fact: EditRequest, text: str, answer: str) -> bool:
    """Whether a text, without the subject, contains an answer that the fact's own prompt does not."""
    reworded, own = (t.casefold().replace(fact.subject.casefold(), " ") for t in (text, fact.question))
    return _word(answer.casefold(), reworded) and not _word(answer.casefold(), own)


def _word(part: str, text: str) -> bool:
    """Whether a text contains a part as whole words."""
    return find_word(text, part) is not None


def _answer_follows(question: str, text: str) -> bool:
    if question.endswith("?"):
        return text.endswith("?")
    last, own = text.split()[-1].casefold(), question.split()[-1].casefold()
    return last == own or last in _LEADS.split()


class Rewriter:
    """Rewrites by templates.

    Args:
        seed: Seed of the draw of templates. A fact's draw does not depend on the other facts.

    Attributes:
        counts: Number of rewritings by origin (``templates``, ``lm``), and of the language model's that were refused
            (``refused: …``, by reason).
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.counts: Counter[str] = Counter()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the rewritings depend on."""
        return {"rewriter": "templates"}

    def rewrite(
        self,
        facts: Sequence[EditRequest],
        count: int = 1,
        refuse: Refusal | None = None,
        progress: Progress | None = None,
    ) -> list[list[str]]:
        """Rewrites the prompts of some facts.

        Args:
            facts: The facts; only ``prompt``, ``subject`` and ``target_new`` are used.
            count: Number of rewritings of each.
            refuse: A further check.
            progress: Where to report progress.

        Returns:
            For each fact at most ``count`` complete prompts, all different; fewer if no more pass the checks.
        """
        texts = [self._templates(fact, [], count, refuse) for fact in facts]
        self.counts["templates"] += sum(map(len, texts))
        return texts

    def _templates(self, fact: EditRequest, have: list[str], count: int, refuse: Refusal | None) -> list[str]:
        """The rewritings that are missing to ``count``, by templates."""
        usable = [
            text
            for text in paraphrases(fact.prompt, fact.subject)
            if text not in have and _reason(fact, text, refuse) is None
        ]
        rng = random.Random(f"{self.seed} {fact.question}")
        return rng.sample(usable, min(max(0, count - len(have)), len(usable)))


Write = Callable[[Sequence[str], int, int | None], list[str]]
"""A language model's continuations of prompts, given the maximum of new tokens and a seed; greedy without a seed."""


class ModelRewriter(Rewriter):
    """Rewrites by a language model, shown a few examples; templates replace what does not pass the checks.

    Args:
        write: The language model.
        count_tokens: The length of a text in its tokens.
        name: The model's name, for the record.
        seed: Seed of the sampling and of the templates.
        tries: Number of tries for a prompt: the first greedy, the others sampled.
        batch: Prompts run at once.
    """

    def __init__(
        self,
        write: Write,
        count_tokens: Callable[[str], int],
        name: str = "",
        seed: int = 0,
        tries: int = 4,
        batch: int = 32,
    ) -> None:
        super().__init__(seed)
        self.write, self.count_tokens, self.name, self.tries, self.batch = write, count_tokens, name, tries, batch

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the rewritings depend on."""
        return {"rewriter": "lm", "rewriter_model": self.name, "tries": self.tries}

    def rewrite(
        self,
        facts: Sequence[EditRequest],
        count: int = 1,
        refuse: Refusal | None = None,
        progress: Progress | None = None,
    ) -> list[list[str]]:
        """Rewrites the prompts of some facts; see :meth:`Rewriter.rewrite`."""
        accepted: list[list[str]] = [[] for _ in facts]
        rounds = max(self.tries, count)
        with (progress or Progress()).task("rewriting", rounds * len(facts)) as advance:
            for attempt in range(rounds):
                pending = [i for i, texts in enumerate(accepted) if len(texts) < count]
                advance(len(facts) - len(pending))
                for start in range(0, len(pending), self.batch):
                    part = pending[start : start + self.batch]
                    rng = random.Random(f"{self.seed} {attempt} {start}")
                    seed = None if attempt == 0 else rng.randrange(2**31)
                    for i, text in zip(part, self._first_lines([facts[i].question for i in part], seed), strict=True):
                        reason = "said before" if text in accepted[i] else _reason(facts[i], text, refuse)
                        if reason is None:
                            accepted[i].append(text)
                        else:
                            self.counts[f"refused: {reason}"] += 1
                    advance(len(part))
        self.counts["lm"] += sum(map(len, accepted))
        for fact, texts in zip(facts, accepted, strict=True):
            more = self._templates(fact, texts, count, refuse)
            self.counts["templates"] += len(more)
            texts += more
        return accepted

    def _first_lines(self, questions: Sequence[str], seed: int | None) -> list[str]:
        """The first line that the model writes for each question; greedy without a seed."""
        head = "".join(f"Text: {a}\nThe same in other words: {b}\n\n" for a, b in _EXAMPLES)
        prompts = [f"{head}Text: {question}\nThe same in other words:" for question in questions]
        texts = self.write(prompts, max(map(self.count_tokens, questions)) + _ROOM, seed)
        return [text.strip().split("\n", 1)[0].strip() for text in texts]


def _reason(fact: EditRequest, text: str, refuse: Refusal | None) -> str | None:
    return problem(fact, text) or (refuse(fact, text) if refuse is not None else None)
