"""The seeds and conditions of the images that a run shows, which are the same each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from distill.config.errors import UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.sampling import labels_of, spread
from distill.training.settings.preview import PreviewSettings
from distill.types import Condition, ImageModel


class Previews:
    """Gives image i its seed and its condition. `prompts` are those of the run, None without text.

    A prompt encoder that is sharded comes with `most`, as `EncodedPrompts` says.
    """

    def __init__(
        self,
        settings: PreviewSettings,
        network: ImageModel,
        prompts: EncodedPrompts | None,
        most: Callable[[int], int] | None = None,
    ) -> None:
        check_previews(settings, network)
        self.settings, self.prompts, self.label_count = settings, prompts, network.label_count
        self.own: EncodedPrompts | None = None
        if settings.prompts is not None and network.prompt_encoder is not None:
            self.own = EncodedPrompts(settings.read_prompts(), network.prompt_encoder.encode, most=most)

    def seeds(self, rows: Sequence[int]) -> list[int]:
        """Return the seeds of the images of these numbers."""
        return [self.settings.seed + row for row in rows]

    def condition(self, rows: Sequence[int]) -> Condition:
        """Return the conditions of the images of these numbers."""
        if self.own is not None:
            return self.own(torch.tensor(rows) % len(self.own))
        if self.settings.labels is not None:
            labels = torch.tensor(self.settings.labels)
            return Condition(labels[torch.tensor(rows) % len(labels)])
        if self.prompts is not None:
            return self.prompts(spread(rows, len(self.prompts)))
        return labels_of(rows, self.label_count)

    @property
    def condition_count(self) -> int:
        """Number of conditions that the images have in turn; 0 if they have none or are spread over many."""
        if self.own is not None:
            return len(self.own)
        if self.settings.labels is not None:
            return len(self.settings.labels)
        return 0 if self.prompts is not None else self.label_count


def check_previews(settings: PreviewSettings, network: ImageModel) -> None:
    """Refuse prompts and labels that a network does not take."""
    if settings.prompts is not None:
        if not network.takes_text:
            raise UserError("preview.prompts: the network takes no text; expected null")
        settings.read_prompts()
    for label in settings.labels or ():
        if not 0 <= label < network.label_count:
            expected = f"expected 0 to {network.label_count - 1}" if network.label_count else "expected null"
            raise UserError(
                f"preview.labels: {label} is no label of the network with {network.label_count}; {expected}"
            )
