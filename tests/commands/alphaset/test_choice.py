"""Which records are taken, where everything that is measured is known beforehand."""

from collections.abc import Sequence

import pytest
import torch

from aeplus.commands.alphaset.answers import Sizes, gather
from aeplus.commands.alphaset.build import ConflictSet, Record, SetBuilder, _distributed
from aeplus.commands.stream_keys import Keys, Measurer
from aeplus.data.paraphrase import Rewriter
from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.utils.progress import Progress

FACTS = [EditRequest("People of {} speak", f"Old{i}", f"Tongue{i}") for i in range(4)]
# Only the first four have another answer to their form, and so can be rewritten.
POOL = [EditRequest("The capital of {} is", f"Land{i}", f"Town{i}") for i in range(4)]
POOL += [EditRequest(f"Fact {i} about {{}} is", f"Land{i}", f"Town{i}") for i in range(4, 20)]
SIZES = Sizes((2, 2, 2), (3, 3, 3))
PLAIN = {request.question for request in (*FACTS, *POOL)}
# |cos| with K0 of pool edits; their other parts are orthogonal to each other.
NEAR = [0.9, 0.95, 0.9, 0.95, *(0.05 * (1 + (7 * i) % 16) for i in range(16))]


class Known(Measurer):
    """Gives keys of 64 inputs at one layer, and residuals, by the subject's number."""

    def __init__(self) -> None:
        self.progress = Progress()

    def keys(self, requests: Sequence[EditRequest], label: str) -> Keys:
        return [torch.stack([self.key(request) for request in requests], 1)]

    def key(self, request: EditRequest) -> torch.Tensor:
        number, plain = int(request.subject[3:].removeprefix("d")), request.question in PLAIN
        key = torch.zeros(64, dtype=torch.float64)
        if request.subject.startswith("Old"):  # K0 is the first axis; rewritings leave it by their number
            cosine, other = (1.0, 1) if plain else (0.9 - 0.2 * number, 2)
            key[0], key[other] = cosine, (1 - cosine**2) ** 0.5
            return key
        if plain:
            key[0], key[4 + number] = NEAR[number], (1 - NEAR[number] ** 2) ** 0.5
            return key
        cosine = 0.2 + 0.2 * number  # rewritings resemble their edits by their number
        key[:] = cosine * self.key(POOL[number])
        key[40 + number] = (1 - cosine**2) ** 0.5
        return key

    def residuals(self, requests: Sequence[EditRequest], label: str) -> list[float]:
        return [float(request.subject[4:]) if request.subject.startswith("Land") else 0.5 for request in requests]


def built(seed: int = 0, candidates: int | None = 100) -> list[ConflictSet]:
    return SetBuilder(gather(POOL, FACTS, seed), Known(), Rewriter(seed), seed, candidates).build(SIZES)


def subjects(conflict_set: ConflictSet, part: str) -> set[str]:
    return {record.request.subject for record in conflict_set.records if record.part == part}


@pytest.mark.parametrize("seed", range(3))
def test_what_conflicts_most_is_taken(seed: int) -> None:
    first, second, third = built(seed)
    assert subjects(first, "conflict") == {"Old0", "Old1"}  # nearest to K0
    assert subjects(second, "prior") == subjects(second, "conflict") == {"Land2", "Land3"}  # nearest to their edits
    assert subjects(third, "conflict") == {"Land18", "Land19"}  # the largest residuals
    fill = {name for s in (first, second, third) for name in subjects(s, "fill")}
    left = sorted((NEAR[i], f"Land{i}") for i in (0, 1, *range(4, 18)))
    assert fill == {name for _, name in left[:7]}  # the least conflict


def test_what_is_measured_follows_the_order() -> None:
    first, second, _ = built()
    for conflict_set in (first, second):
        own = {"Old0": 0.9, "Old1": 0.7}
        for record, s in zip(conflict_set.records, conflict_set.conflict_preserved, strict=True):
            subject = record.request.subject
            if subject in own:
                assert s == pytest.approx(own[subject])
    again = [i for i, record in enumerate(second.records) if record.part == "conflict"]
    for i in again:
        assert second.conflict_prior[i] >= 0.2 + 0.2 * int(second.records[i].request.subject[4:]) - 1e-9
    assert second.conflict_prior[0] == 0


def test_candidates_are_measured_and_no_others() -> None:
    seen: set[str] = set()

    class Noting(Known):
        def keys(self, requests: Sequence[EditRequest], label: str) -> Keys:
            seen.update(request.subject for request in requests)
            return super().keys(requests, label)

    sets = SetBuilder(gather(POOL, FACTS, 0), Noting(), Rewriter(), 0, 9).build(SIZES)
    assert {name for s in sets for part in ("fill", "conflict") for name in subjects(s, part)} <= seen
    assert len({name for name in seen if name.startswith("Land")}) < len(POOL)
    for candidates, measured in ((None, 13), (1, 9), (11, 11), (100, 18)):
        builder = SetBuilder(gather(POOL, FACTS, 0), Known(), Rewriter(), 0, candidates)
        builder.build(SIZES)
        assert builder.measured == measured


def test_rewritings_that_never_pass() -> None:
    class Mute(Rewriter):
        def _templates(self, *_: object) -> list[str]:
            return []

    builder = SetBuilder(gather(POOL, FACTS, 0), Known(), Mute())
    with pytest.raises(InputError, match="expected 2 K0 facts with a rewriting that passes the checks, got 0 out of 4"):
        builder.build(SIZES)


def test_fill_has_residuals_alike_in_every_set() -> None:
    norms = [float(n) for n in (9, 1, 5, 3, 7, 2, 8, 4, 6, 0)]
    edit = EditRequest("The capital of {} is", "France", "Rome")
    parts = _distributed([Record(edit, "fill", (), norm) for norm in norms], (2, 0, 4, 4))
    assert [len(part) for part in parts] == [2, 0, 4, 4]
    assert sorted(record.residual_norm for part in parts for record in part) == sorted(norms)
    means = [sum(record.residual_norm for record in part) / len(part) for part in parts if part]
    assert max(means) - min(means) <= 1.5
