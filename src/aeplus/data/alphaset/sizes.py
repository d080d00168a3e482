"""How many records the three sets hold, and whether there is enough to make them of."""

import re
from dataclasses import dataclass

from aeplus.errors import InputError


@dataclass(frozen=True)
class Sizes:
    """Records with conflict and other records (fill) of each set; the defaults are the paper's Table 5.

    The fill of the second set holds the earlier edits that its conflicting records rewrite.

    Attributes:
        conflict: Records with conflict in AlphaSet1, 2 and 3.
        fill: Other records.

    Raises:
        InputError: If a number is below 1, or the second set's fill is smaller than its conflicting part.
    """

    conflict: tuple[int, int, int] = (200, 200, 300)
    fill: tuple[int, int, int] = (800, 800, 1200)

    def __post_init__(self) -> None:
        if min(*self.conflict, *self.fill) < 1 or self.fill[1] < self.conflict[1]:
            msg = (
                f"expected at least one record in each part, and in the second set no more with conflict than without, "
                f"but the sizes are {self}; write for example 20+80,20+80,30+120."
            )
            raise InputError(msg)

    def __str__(self) -> str:
        return ", ".join(f"{a} + {b}" for a, b in zip(self.conflict, self.fill, strict=True))

    @classmethod
    def scaled(cls, scale: float) -> "Sizes":
        """Table 5's sizes times ``scale``, rounded, at least one record in each part."""
        if not 0 < scale <= 100:
            msg = f"expected a scale above 0 and up to 100, but {scale} came; 0.1 makes sets of 100, 100 and 150."
            raise InputError(msg)
        whole = cls()
        conflict, fill = ([max(1, round(n * scale)) for n in part] for part in (whole.conflict, whole.fill))
        return cls((conflict[0], conflict[1], conflict[2]), (fill[0], fill[1], fill[2]))

    @classmethod
    def parse(cls, text: str) -> "Sizes":
        """Sizes as people write them: ``200+800,200+800,300+1200``."""
        numbers = [int(n) for n in re.findall(r"\d+", text)]
        if not re.fullmatch(r"\s*\d+\s*\+\s*\d+\s*(,\s*\d+\s*\+\s*\d+\s*){2}", text):
            msg = f"expected three sizes such as 200+800,200+800,300+1200 (conflict + fill), but {text!r} came; fix it."
            raise InputError(msg)
        a, b, c, d, e, f = numbers
        return cls((a, c, e), (b, d, f))

    @property
    def edits(self) -> int:
        """How many edits of the pool the three sets take; none is taken twice."""
        return sum(self.fill) + self.conflict[2]


@dataclass(frozen=True)
class Supply:
    """What there is to make the sets of.

    Attributes:
        edits: Edits on different subjects.
        priors: Those of them that can be rewritten with another answer.
        facts: Preserved facts that can be.
    """

    edits: int
    priors: int
    facts: int

    def suffices(self, sizes: Sizes) -> bool:
        """Whether sets of these sizes can be made."""
        return self.edits >= sizes.edits and self.priors >= sizes.conflict[1] and self.facts >= sizes.conflict[0]

    def check(self, sizes: Sizes) -> None:
        """Sets of these sizes can be made.

        Raises:
            InputError: If not; the message tells the largest scale that works.
        """
        if self.suffices(sizes):
            return
        works = next((n / 1000 for n in range(1000, 0, -1) if self.suffices(Sizes.scaled(n / 1000))), None)
        advice = f"give more, or --scale {works:g}, the largest that works" if works else "give more"
        msg = (
            f"sets of {sizes} need {sizes.edits} edits on different subjects, {sizes.conflict[1]} of them with another "
            f"answer to their form of prompt, and {sizes.conflict[0]} such K0 facts, but there are {self.edits}, "
            f"{self.priors} and {self.facts}; {advice}."
        )
        raise InputError(msg)
