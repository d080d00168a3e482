"""How a caller's model is set up, which is theirs: what needs it otherwise gives it back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def kept_modes(model: Any) -> Iterator[None]:
    """When the block ends, each module trains or not, and each parameter requires a gradient or not, as before."""
    training = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter, flag in gradients:
            parameter.requires_grad_(flag)
