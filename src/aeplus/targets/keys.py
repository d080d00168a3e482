"""Keys of a batch of edits, layer by layer, while the layers change.

The rows end at the subject's last token and are run once up to the first edited layer. From there each layer is
run again as it is edited, so a key always depends on the current weights below, prefix tokens included.
"""

import torch
from torch import Tensor

from aeplus.models.decoder import Decoder, EditSite, at_least_float32
from aeplus.models.hooks import on_input
from aeplus.models.replay import Replay
from aeplus.targets.rows import BatchRows


class KeyReader:
    """Runs a batch's rows up through the edited layers.

    Args:
        decoder: The model, with its weights as before the batch.
        rows: The batch's token rows.
        sites: The edited layers, ascending.
    """

    def __init__(self, decoder: Decoder, rows: BatchRows, sites: list[EditSite]) -> None:
        self.decoder, self.sites, self.contexts = decoder, sites, rows.contexts
        self._all = Replay(decoder, rows.up_to_subject(), sites[0].layer)
        self._bare_rows = torch.arange(0, len(rows.prompts), rows.contexts, device=decoder.device)
        self._bare = self._all.select(self._bare_rows)
        self.restart()

    def restart(self) -> None:
        """Goes back to the first edited layer."""
        self._hidden = self._all.hidden
        self._layer = self.sites[0].layer

    @torch.no_grad()
    def read(self, site: EditSite, at: EditSite, *, every: bool = False) -> tuple[Tensor, Tensor]:
        """Keys at a site and the current values at another.

        A key is the mean over two kinds of template, the bare prompt and the sampled contexts (MEMIT).

        Args:
            site: At or above the site read before; the layers between run with their current weights.
            at: At or above ``site``.
            every: Values behind every context, averaged as keys are; by default after the bare prompt.

        Returns:
            Keys ``[d, n]`` and values ``[o, n]``.
        """
        self._hidden = self._all.run(self._hidden, self._layer, site.layer)
        self._layer = site.layer
        inputs: list[Tensor] = []
        with on_input([site.module], lambda _, x: inputs.append(at_least_float32(x[:, -1])), stop=True):
            self._all.run(self._hidden, site.layer, site.layer + 1)
        keys = self._mean(inputs[0])
        if every:
            return keys, self._mean(at_least_float32(self._all.run(self._hidden, site.layer, at.layer + 1)[:, -1]))
        values = self._bare.run(self._hidden[self._bare_rows], site.layer, at.layer + 1)
        return keys, at_least_float32(values[:, -1]).T.contiguous()

    @torch.no_grad()
    def follow(self, delta: Tensor) -> list[Tensor]:
        """What becomes of the hidden states once those that leave the first site are moved.

        The rows run on from there, with the weights as they are, each behind its own context.

        Args:
            delta: What is added at the subject's last token of the first site's output, ``[o, n]``.

        Returns:
            For each site the hidden states at its output, averaged over the contexts as keys are, ``[o, n]``.
        """
        layer = self.sites[0].layer + 1
        hidden = self._all.run(self._all.hidden, self.sites[0].layer, layer)
        moved = hidden[:, -1] + delta.T.repeat_interleave(self.contexts, 0).to(hidden.dtype)
        hidden = torch.cat([hidden[:, :-1], moved[:, None]], 1)
        found = []
        for site in self.sites:
            hidden, layer = self._all.run(hidden, layer, site.layer + 1), site.layer + 1
            found.append(self._mean(at_least_float32(hidden[:, -1])))
        return found

    def _mean(self, rows: Tensor) -> Tensor:
        """The mean of each edit's rows ``[n * c, …]`` over two kinds of template, in columns, ``[…, n]``."""
        parts = rows.unflatten(0, (-1, self.contexts))
        mean = parts[:, 0] if self.contexts == 1 else (parts[:, 0] + parts[:, 1:].mean(1)) / 2
        return mean.T.contiguous()
