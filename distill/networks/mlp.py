"""A residual network for vectors with EDM preconditioning: student and fake score of exact experiments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, overload

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from distill.diffusion.schedules import describe_schedule, read_schedule
from distill.networks.computation.precision import as_weights
from distill.networks.layers import FourierFeatures, embed_noise, label_rows
from distill.networks.sizes import MLPSizes, split_sizes
from distill.types import Condition, Denoiser, Features, NoiseSchedule, expand_like


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """The vectors of an `MLP`, of `dimension` elements, its labels, and its sizes."""

    dimension: int
    label_count: int = 0
    sizes: MLPSizes = dataclasses.field(default_factory=MLPSizes)


class MLP(Denoiser):
    """A `Denoiser` of vectors (b, d) for any schedule.

    Its preconditioning is EDM's (Karras et al. 2022, table 1) with x_t/alpha for x and sigma/alpha for sigma.
    It has features at one depth, "bottleneck", shaped (b, width, 1, 1) for heads that expect the positions of
    an image.
    """

    takes_reduced_weights = True

    def __init__(self, config: MLPConfig, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.config, self.schedule = config, schedule
        self.image_shape, self.label_count = (config.dimension,), config.label_count
        width = config.sizes.width
        self.noise_embedding = nn.Sequential(
            FourierFeatures(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.label_embedding = nn.Embedding(config.label_count + 1, width)  # the last row is "no label"
        self.entry = nn.Linear(config.dimension, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(config.sizes.blocks))
        self.exit = nn.Linear(width, config.dimension)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def describe(self) -> dict[str, Any]:
        """Return its sizes and its schedule as plain data."""
        return {
            "dimension": self.config.dimension,
            "label_count": self.config.label_count,
            **self.config.sizes.model_dump(),
            "schedule": describe_schedule(self.schedule),
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> MLP:
        """Build the network from what `describe` returned."""
        own, sizes = split_sizes(description, MLPSizes)
        schedule = read_schedule(own.pop("schedule"))
        return cls(MLPConfig(**own, sizes=sizes), schedule)

    @property
    def depth_channels(self) -> dict[str, int]:
        return {"bottleneck": self.config.sizes.width}

    @overload
    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...
    @overload
    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]
    ) -> tuple[Tensor, Features]: ...

    def forward(
        self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], cond: Condition, depths: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, Features]:
        """Predict x_0, (b, d), from x_t at time t; with `depths`, also return the features."""
        hidden = self._hidden(x_t, t, cond)
        sigma_data = self.config.sizes.sigma_data
        level = expand_like(self._noise_to_signal(t), x_t)
        alpha = expand_like(self.schedule.alpha(t), x_t)
        scale = (level**2 + sigma_data**2).rsqrt()
        output = self.exit(F.silu(hidden))
        x0 = (sigma_data * scale) ** 2 * x_t / alpha + level * sigma_data * scale * output
        return (x0, as_features(hidden, depths)) if depths else x0

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        return as_features(self._hidden(x_t, t, cond), depths)

    def target_weight(self, t: Tensor) -> Tensor:
        """Return EDM's weight of the squared error, with sigma/alpha for sigma."""
        return self._noise_to_signal(t) ** -2 + self.config.sizes.sigma_data**-2

    def _noise_to_signal(self, t: Tensor) -> Tensor:
        return self.schedule.sigma(t) / self.schedule.alpha(t)

    def _hidden(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        level = self._noise_to_signal(t)
        scale = (level**2 + self.config.sizes.sigma_data**2).rsqrt() / self.schedule.alpha(t)
        label = label_rows(cond.label, t, self.config.label_count)
        noise = embed_noise(self.noise_embedding, level.log() / 4)
        condition = F.silu(noise + self.label_embedding(label))
        hidden = self.entry(as_weights(expand_like(scale, x_t) * x_t, self.entry.weight))
        for block in self.blocks:
            hidden = block(hidden, condition)
        return hidden


def as_features(hidden: Tensor, depths: Sequence[str]) -> Features:
    known = {"bottleneck": hidden[:, :, None, None]}
    return {depth: known[depth] for depth in depths}


class Block(nn.Module):
    """A residual block: an MLP whose normalised input is scaled and shifted by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition).chunk(2, dim=1)
        return hidden + self.body(self.norm(hidden) * (1 + scale) + shift)
