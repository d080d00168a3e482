"""Decoder layers sharded among processes (FSDP2): each holds a part of every layer, and gathers a layer to run it.

What is edited stays whole in every process: solving needs it so, and a snapshot of it too. Embeddings, the final norm
and the head stay whole as well.
"""

from collections.abc import Sequence
from inspect import signature
from typing import Any

from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.sites import EditSite


def shard_layers(decoder: Decoder, sites: Sequence[EditSite], mesh: Any) -> None:
    """Shards every decoder layer, but for the weights of edited sites, which stay plain tensors.

    From then on all processes have to run the same layers in the same order.

    Args:
        decoder: The model.
        sites: The edited layers.
        mesh: A device mesh of one dimension: the processes.

    Raises:
        InputError: If this torch cannot leave a weight whole.
    """
    from torch.distributed.fsdp import fully_shard

    if "ignored_params" not in signature(fully_shard).parameters:
        msg = "expected torch 2.7 or newer for trainer.strategy fsdp2, got an older one; run: pip install -U torch."
        raise InputError(msg)
    edited = {parameter for site in sites for parameter in site.module.parameters()}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=edited)
