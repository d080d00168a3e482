"""Reading and stopping a forward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class _Stop(Exception):
    """Ends a forward pass whose rest is not needed."""


@contextmanager
def _removed_afterwards(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def on_input(
    modules: Sequence[nn.Module], receive: Callable[[int, Tensor], None], *, stop: bool = False
) -> Iterator[None]:
    """Passes the input of each module to ``receive(index, input)``; with ``stop`` the pass ends at the last one.

    Args:
        modules: Modules in the order of the forward pass.
        receive: Called before the module runs.
        stop: End the forward pass, and with it the ``with`` block, when the last module's input has been read.
    """

    def hook(index: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def read(_: nn.Module, args: tuple[Any, ...]) -> None:
            receive(index, args[0])
            if stop and index == len(modules) - 1:
                raise _Stop

        return read

    handles = [m.register_forward_pre_hook(hook(i)) for i, m in enumerate(modules)]
    with _removed_afterwards(handles):
        try:
            yield
        except _Stop:
            return


@contextmanager
def on_call(
    modules: Sequence[nn.Module],
    receive: Callable[[int, tuple[Any, ...], dict[str, Any]], None],
    *,
    stop: bool = False,
) -> Iterator[None]:
    """Passes the arguments of each module's call to ``receive(index, args, kwargs)``.

    Args:
        modules: Modules in the order of the forward pass.
        receive: Called before the module runs.
        stop: End the forward pass, and with it the ``with`` block, before the last module runs.
    """

    def hook(index: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            receive(index, args, kwargs)
            if stop and index == len(modules) - 1:
                raise _Stop

        return read

    handles = [m.register_forward_pre_hook(hook(i), with_kwargs=True) for i, m in enumerate(modules)]
    with _removed_afterwards(handles):
        try:
            yield
        except _Stop:
            return


def at_columns(states: Tensor, columns: Tensor) -> Tensor:
    """The states ``[rows, d]`` at each row's column, in their dtype.

    Args:
        states: ``[rows, tokens, d]``, or ``[rows · tokens, d]``, as some layers hand their MLP all tokens in one row.
        columns: ``[rows]``.
    """
    states = states.reshape(len(columns), -1, states.shape[-1])
    return states[torch.arange(len(columns), device=states.device), columns.to(states.device)]
