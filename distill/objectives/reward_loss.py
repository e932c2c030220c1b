"""The explicit reward as a term of the generator's loss: frozen rewards score the decoded samples."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from distill.networks.computation.activation_checkpointing import CheckpointedBlock, recompute
from distill.objectives.term import TermInputs
from distill.types import Condition, Generator, LossOutput, Reward, to_device


@dataclasses.dataclass(frozen=True)
class WeightedReward:
    """A reward, its weight among several, and the minimum and maximum of its value; None is no bound."""

    name: str
    reward: Reward
    weight: float = 1.0
    bounds: tuple[float | None, float | None] | None = None

    def clipped(self, value: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Clamp a value to the bounds; beyond them it has no gradient."""
        low, high = self.bounds or (None, None)
        return value.clamp(-math.inf if low is None else low, math.inf if high is None else high)


class RewardTerm(nn.Module):
    """A `Term`: minus the weighted sum of each sample's clipped rewards, (b,).

    A sample whose label or prompt was dropped has a loss of zero. Rewards read images in float32 whatever the
    networks compute in, because bfloat16 has three digits and preferences differ by less. The metrics are
    each reward's mean, which counts a sample without a condition as 0, the share of samples with one, and the
    share beyond the bounds.
    """

    def __init__(
        self,
        judged: Sequence[WeightedReward],
        downscale: int = 1,
        crop: int | None = None,
        checkpoint_decoder: bool = True,
    ) -> None:
        super().__init__()
        self.judged = dict(zip(distinct([one.name for one in judged]), judged, strict=True))
        self.rewards = nn.ModuleList([one.reward for one in judged])  # so that they move with this module
        self.downscale = downscale
        self.crop = crop
        self.checkpoint_decoder = checkpoint_decoder
        self.decoder = CheckpointedDecoder()

    def forward(self, inputs: TermInputs) -> LossOutput:
        """Return the loss of each sample, (b,), and the metrics."""
        images = self.images(inputs)
        given = has_condition(inputs.cond, images)
        cond = inputs.cond
        if cond.label is not None:  # a dropped label is -1, which no reward knows
            cond = Condition(cond.label.clamp_min(0), cond.text)
        loss = images.new_zeros(len(images))
        metrics = {"share_judged": given.float()}
        with full_precision(images.device):
            for name, one in self.judged.items():
                value = torch.where(given, one.reward(images, cond), 0.0)
                kept = one.clipped(value)
                loss = loss - torch.where(given, one.weight * kept, 0.0)
                metrics[name] = value.detach()
                if one.bounds is not None:
                    metrics[f"{name}_clipped"] = (given & (kept != value)).float()
        return LossOutput(loss, metrics)

    def images(self, inputs: TermInputs) -> Float[Tensor, "b c h w"]:
        """Return the images for the rewards, with their graph: float64 if the samples are, else float32."""
        generator, x0 = inputs.generator, inputs.scores.x0
        if self.downscale > 1:
            x0 = F.avg_pool2d(x0, self.downscale)
        if self.crop is not None:
            if inputs.crop_positions is None:
                raise ValueError("terms: reward needs crop positions; found none in the batch")
            size = self.crop * generator.image_shape[1] // generator.pixel_shape[1]
            x0 = crop(x0, size, inputs.crop_positions)
        images = decode(generator, x0, self.decoder if self.checkpoint_decoder else None)
        return images.to(torch.promote_types(images.dtype, torch.float32))


class Brightness(Reward):
    """The mean of an image, which stands for a reward whose network is not loaded."""

    def forward(self, images: Float[Tensor, "b c h w"], cond: Condition) -> Float[Tensor, " b"]:
        return images.flatten(1).mean(1)


def crop(
    x: Float[Tensor, "b c h w"], size: int, crop_positions: Float[Tensor, "b 2"]
) -> Float[Tensor, "b c s s"]:
    """Cut a square of `size` from each sample.

    `crop_positions`, uniform in (0, 1), choose its row and its column, so that all squares are equally
    likely.
    """
    across = torch.arange(size, device=x.device)
    rows, columns = (
        (crop_positions[:, axis] * (x.shape[2 + axis] - size + 1)).long()[:, None] + across for axis in (0, 1)
    )
    samples, channels = (torch.arange(length, device=x.device) for length in x.shape[:2])
    return x[
        samples[:, None, None, None],
        channels[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


class CheckpointedDecoder(CheckpointedBlock):
    """A generator's decoder whose activations are recomputed in the backward pass instead of being stored."""

    recompute = staticmethod(recompute)

    def forward(self, generator: Generator, x0: Float[Tensor, "1 ..."]) -> Float[Tensor, "1 c h w"]:
        """Return the generator's decode(x0)."""
        return generator.decode(x0)


def decode(generator: Generator, x0: Tensor, decoder: CheckpointedDecoder | None) -> Tensor:
    """Return the images of samples x0, (b, *pixel_shape), with their graph.

    A `decoder` decodes one sample at a time, and again in the backward pass.
    """
    if decoder is None or generator.pixel_shape == generator.image_shape:
        return generator.decode(x0)
    return torch.cat([decoder(generator, sample) for sample in torch.split(x0, 1)])


def has_condition(cond: Condition, images: Float[Tensor, "b ..."]) -> Bool[Tensor, " b"]:
    """Return a mask of the samples with a label or a prompt.

    All samples count as having one if the model takes neither, or if the batch does not carry its prompts.
    """
    given = torch.ones(len(images), dtype=torch.bool, device=images.device)
    if cond.label is not None:
        given = given & (cond.label >= 0)
    if cond.text is not None and cond.text.prompts:
        has_prompt = torch.tensor([prompt != "" for prompt in cond.text.prompts])
        given = given & to_device(has_prompt, images.device)
    return given


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Switch a run's mixed precision off inside the block."""
    if torch.amp.autocast_mode.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def distinct(names: Sequence[str]) -> list[str]:
    """Number the names that repeat an earlier one: clipscore, clipscore_2."""
    counts = [names[: row + 1].count(name) for row, name in enumerate(names)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]
