"""Weighted F1, accuracy and Matthews' correlation of answers with classes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
)

NO_OPTION = -1
"""The answer of an item whose continuation named no option."""


def task_metrics(
    predicted: Sequence[int], classes: Sequence[int], options: int, names: Sequence[str]
) -> dict[str, float]:
    """Metrics of some answers, all times 100.

    An answer that names no option is a class of its own which no item has, so it is always wrong. In ``f1`` each
    class weighs as many items as it has (``f1_score(average="weighted")`` of scikit-learn, which the published
    evaluation calls). ``mcc`` goes from -100 to 100, the others from 0.

    Args:
        predicted: Index of the answered option of each item, or :data:`NO_OPTION`.
        classes: Index of the right option of each item.
        options: How many options there are.
        names: What to report, out of ``f1``, ``accuracy`` and ``mcc``.

    Example:
        >>> task_metrics([1, 0, 1, 1], [1, 0, 0, 1], options=2, names=("accuracy",))
        {'accuracy': 75.0}
    """
    answers = torch.tensor([options if answer == NO_OPTION else answer for answer in predicted])
    target = torch.tensor(list(classes))
    # One class more than there are options, whether it is used or not: with two classes torchmetrics calls answers
    # that are all of one class and all right a correlation of 1, which has no value and which scikit-learn calls 0.
    count = options + 1

    def value(name: str) -> Tensor:
        if name == "f1":
            return multiclass_f1_score(answers, target, num_classes=count, average="weighted")
        if name == "accuracy":
            return multiclass_accuracy(answers, target, num_classes=count, average="micro")
        return multiclass_matthews_corrcoef(answers, target, num_classes=count)

    return {name: 100.0 * float(value(name)) for name in names}
