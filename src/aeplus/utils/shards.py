"""Tensors that several processes hold in parts (DTensor)."""

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Whether some of a model's weights are shards."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered, which all processes have to ask for together; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
