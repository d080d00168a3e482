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
    def read(self, site: EditSite, at: EditSite) -> tuple[Tensor, Tensor]:
        """Keys at a site and the current values at another.

        A key is the mean over two kinds of template, the bare prompt and the sampled contexts (MEMIT).

        Args:
            site: At or above the site read before; the layers between run with their current weights.
            at: At or above ``site``.

        Returns:
            Keys ``[d, n]`` and values ``[o, n]``.
        """
        self._hidden = self._all.run(self._hidden, self._layer, site.layer)
        self._layer = site.layer
        inputs: list[Tensor] = []
        with on_input([site.module], lambda _, x: inputs.append(at_least_float32(x[:, -1])), stop=True):
            self._all.run(self._hidden, site.layer, site.layer + 1)
        keys = inputs[0].unflatten(0, (-1, self.contexts))  # [n, c, d]
        mean = keys[:, 0] if self.contexts == 1 else (keys[:, 0] + keys[:, 1:].mean(1)) / 2
        values = self._bare.run(self._hidden[self._bare_rows], site.layer, at.layer + 1)
        return mean.T.contiguous(), at_least_float32(values[:, -1]).T.contiguous()
