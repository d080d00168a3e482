"""What an edit holds in memory, and what a pass costs beside another, from the model's shape.

Notation: ``d``, ``o`` inputs and outputs of the edited matrices, ``V`` vocabulary, ``L`` layers, ``b`` bytes of a
number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from aeplus.models.decoder import Decoder
from aeplus.models.finding import text_config
from aeplus.models.placing import devices_of, free_bytes

# A card to weigh one cost against another: operations and bytes a second, seconds and number of a layer's launches.
_CARD = (4e14, 3e12, 4e-6, 35)
_LOGIT_BYTES = 16  # logits in float32, their softmax, and the gradients of both
POSITIONS = 256  # whose logits a step of the targets has at once
MEMORY_SHARE = 0.3  # of what a GPU has free, for one pass: a recorded one and another may be held side by side
_WIDE = 4  # numbers for each input of an edited matrix that a token has while its layer runs


@dataclass(frozen=True)
class ModelShape:
    """A decoder by its sizes.

    Attributes:
        layers: ``L``.
        hidden: ``o``.
        intermediate: ``d``.
        vocabulary: ``V``.
        layer_weights: Numbers in the matrices of one decoder layer.
        other_weights: Numbers in everything but the layers: embeddings, head, final norm.
        width: ``b``.
        kv: Numbers in the keys and values of one token in one layer.
    """

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    layer_weights: int
    other_weights: int
    width: int
    kv: int

    @classmethod
    def of(cls, decoder: Decoder) -> "ModelShape":
        """The shape of a model; layers that differ count as their mean."""
        inside = sum(p.numel() for p in decoder.layers.parameters() if p.ndim > 1)
        site = decoder.sites[0].weight if decoder.sites else None
        embeddings = decoder.model.get_input_embeddings().weight
        return cls(
            layers=len(decoder.layers),
            hidden=embeddings.shape[1] if site is None else site.shape[0],
            intermediate=4 * embeddings.shape[1] if site is None else site.shape[1],
            vocabulary=embeddings.shape[0],
            layer_weights=inside // len(decoder.layers),
            other_weights=sum(p.numel() for p in decoder.model.parameters() if p.ndim > 1) - inside,
            width=next(iter(decoder.layers.parameters())).element_size(),
            kv=_kv(text_config(decoder.model), embeddings.shape[1]),
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.width * (self.layers * self.layer_weights + self.other_weights)

    def activation_bytes(self, *, fused: bool = False) -> int:
        """Bytes that one token of one layer keeps for the way back, where weights need no gradient.

        Of the MLP gate, its activation and up; of attention queries, keys and values, rotated, and the scores; of two
        norms the input, in float32.

        Args:
            fused: Whether norms and gates are one kernel each (:class:`~aeplus.models.kernels.Fused`): then the
                activation is not kept, and the input as it is.
        """
        inside, norms = (2, self.width) if fused else (3, 4)
        return self.width * (inside * self.intermediate + 2 * self.hidden + self.kv) + 2 * norms * self.hidden

    def held(self, tokens: float, layers: int, attended: float = 0.0, *, fused: bool = False) -> float:
        """Bytes that some tokens keep in some layers for the way back.

        Args:
            tokens: The tokens.
            layers: The layers.
            attended: Cached tokens that they attend to, of all rows together.
            fused: As for :meth:`activation_bytes`.
        """
        return layers * (tokens * self.activation_bytes(fused=fused) + attended * self.width * self.kv)

    @property
    def part_tokens(self) -> int:
        """How many tokens cost as much on a GPU as one more pass, there and back: its launches, weights read again."""
        speed, bandwidth, launch, launches = _CARD
        once = launches * launch + 2 * self.width * self.layer_weights / bandwidth
        return round(once / (4 * self.layer_weights / speed))

    def tokens_within(
        self, free: float, layers: int, predicted: float, attended: float = 0.0, *, fused: bool = False
    ) -> int:
        """How many tokens can go through some layers, there and back, in some bytes of memory; at least one.

        Args:
            free: Bytes.
            layers: The layers.
            predicted: Positions whose logits are needed, for each token.
            attended: Cached tokens, for each token.
            fused: As for :meth:`activation_bytes`.
        """
        each = self.held(1.0, layers, attended, fused=fused)
        fit = free / (each + predicted * self.vocabulary * _LOGIT_BYTES)
        if predicted * fit > POSITIONS:
            fit = (free - self.logits(POSITIONS)) / each
        return max(1, int(fit))

    def logits(self, predicted: int) -> int:
        """Bytes of the logits of some predicted positions, as many as a step has at once."""
        return min(predicted, POSITIONS) * self.vocabulary * _LOGIT_BYTES


def tokens_ahead(
    decoder: Decoder,
    usual: int,
    most: int,
    predicted: float = 0.0,
    free: Callable[[torch.device], int] | None = None,
) -> int:
    """How many tokens may run at once where nothing is kept for a way back.

    Args:
        decoder: The model.
        usual: How many where memory is not asked: on a CPU, which gains nothing from more.
        most: The most on a GPU, where fewer fit into :data:`MEMORY_SHARE` of what is free.
        predicted: Positions whose logits are needed, for each token.
        free: Bytes that a device has left, to be asked instead of the device; a CPU is not asked by default.
    """
    if free is None:
        if decoder.device.type != "cuda":
            return usual
        free = free_bytes
    shape = ModelShape.of(decoder)
    each = _WIDE * shape.intermediate * shape.width + predicted * shape.vocabulary * _LOGIT_BYTES
    room = MEMORY_SHARE * min(map(free, devices_of(decoder.layers, decoder.device)))
    return decoder.ranks.together(max(1, min(most, int(room / each))))


def _kv(config: Any, hidden: int) -> int:
    """Numbers in a token's keys and values; where the config does not tell, as many as queries have."""
    heads = _setting(config, "num_attention_heads")
    if not isinstance(heads, int) or not heads:
        return 2 * hidden
    groups, width = (_setting(config, name) for name in ("num_key_value_heads", "head_dim"))
    return 2 * (groups if isinstance(groups, int) else heads) * (width if isinstance(width, int) else hidden // heads)


def _setting(config: Any, name: str) -> Any:
    """A setting of all layers; where they differ, which transformers refuses to tell of all, the largest."""
    try:
        return getattr(config, name, None)
    except RuntimeError:
        return max(getattr(own, name) for own in config.per_layer_config)


@dataclass(frozen=True)
class Memory:
    """Bytes above the weights.

    Attributes:
        activations: What a step of the targets keeps for its way back.
        logits: Logits of the predicted positions in float32, their softmax and gradients.
        preserved: Preserved knowledge of all edited layers: directions outside the null space, and a sample of keys.
        snapshot: The edited layers as they were before the batch, and before the call.
        statistics: What collecting statistics needs, once: a sum of products for each layer.
        earlier: Keys of earlier edits, and their products or, of more than ``d``, their moment, plain and weighted.
    """

    activations: int
    logits: int
    preserved: int
    snapshot: int
    statistics: int
    earlier: int = 0

    @property
    def editing(self) -> int:
        """The most that is held at once while batches are edited."""
        return self.activations + self.logits + self.preserved + self.snapshot + self.earlier


def memory(
    shape: ModelShape,
    first: int,
    sites: int,
    tokens: int,
    predicted: int,
    outside: int,
    attended: int = 0,
    sample: int = 2048,
    *,
    fused: bool = False,
    earlier: int = 0,
) -> Memory:
    """The memory that editing takes above the weights.

    Args:
        shape: The model.
        first: The first layer that is repeated while targets are learned.
        sites: How many layers are edited.
        tokens: Tokens that are run at once.
        predicted: Positions among them whose logits are needed.
        outside: Directions outside the null space of each layer.
        attended: Cached tokens that they attend to.
        sample: Sampled preserved keys of each layer.
        fused: Whether norms and gates are one kernel each.
        earlier: Edits of earlier batches.
    """
    d, o = shape.intermediate, shape.hidden
    # In float64; products have room for a quarter more.
    products = 8 * round((1.25 * earlier) ** 2) if earlier <= d else 2 * 8 * d * d
    return Memory(
        activations=round(shape.held(tokens, shape.layers - first, attended, fused=fused)),
        logits=shape.logits(predicted),
        preserved=sites * 4 * d * (outside + sample),
        snapshot=sites * 2 * shape.width * o * d,
        statistics=sites * 8 * d * d,
        earlier=sites * (4 * d * earlier + products),
    )
