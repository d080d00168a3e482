"""Where the parts of a model are, if its layers lie on several devices (``device_map`` of transformers)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def device_of(module: nn.Module, default: torch.device) -> torch.device:
    """The device of a module's first parameter; ``default`` if it has none."""
    return next((parameter.device for parameter in module.parameters()), default)


def devices_of(modules: Iterable[nn.Module], default: torch.device) -> list[torch.device]:
    """The distinct devices of some modules, in their order; ``default`` if there is none."""
    return list(dict.fromkeys(device_of(module, default) for module in modules)) or [default]


def free_bytes(device: torch.device) -> int:
    """What a GPU has left, with what torch holds and does not use."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def is_spread(model: nn.Module | None) -> bool:
    """Whether a model's weights lie on several devices; it then stays where it is."""
    return model is not None and len({parameter.device for parameter in model.parameters()}) > 1


def placed_call(module: nn.Module, states: Tensor) -> Tensor:
    """What a module makes of states from any device."""
    output: Tensor = module(states.to(device_of(module, states.device)))
    return output
