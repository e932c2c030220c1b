"""What wraps EDM's and EDM2's U-Nets into denoisers, and the walk through such a U-Net.

A preconditioning gives the four coefficients of D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, eq. 7, table 1). All act on
x = x_0 + sigma eps, those of networks trained by the VP and VE recipes of Song et al. 2021 too: their own scaling of x is inside c_in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol, overload, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from distill.schedules import EDM, like
from distill.types import Condition, Denoiser, Features


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """c_skip, c_out, c_in and c_noise of each sample, (b,)."""

    skip: Float[Tensor, " b"]
    out: Float[Tensor, " b"]
    inner: Float[Tensor, " b"]
    noise: Float[Tensor, " b"]


@runtime_checkable
class Preconditioning(Protocol):
    """sigma (b,) -> its coefficients."""

    def __call__(self, sigma: Float[Tensor, " b"]) -> Coefficients: ...


@dataclasses.dataclass(frozen=True)
class EDMPrecond:
    """Inputs and targets of unit variance (Karras et al. 2022, table 1, last column)."""

    sigma_data: float = 0.5

    def __call__(self, sigma: Float[Tensor, " b"]) -> Coefficients:
        variance = sigma**2 + self.sigma_data**2
        return Coefficients(self.sigma_data**2 / variance, sigma * self.sigma_data / variance.sqrt(), 1 / variance.sqrt(), sigma.log() / 4)


@dataclasses.dataclass(frozen=True)
class VPPrecond:
    """A network that predicts eps at step (steps - 1) t of the variance-preserving process, beta(t) = beta_min + beta_d t, t in [0, 1]."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    steps: int = 1000

    def __call__(self, sigma: Float[Tensor, " b"]) -> Coefficients:
        # The t at which sigma^2 = exp(beta_d t^2 / 2 + beta_min t) - 1.
        t = ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d
        return Coefficients(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), (self.steps - 1) * t)


@dataclasses.dataclass(frozen=True)
class VEPrecond:
    """A network that predicts -eps of the variance-exploding process."""

    def __call__(self, sigma: Float[Tensor, " b"]) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, (0.5 * sigma).log())


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a layer stands in a U-Net: at which resolution, as what ("conv", "down", "up", "in0", "block2"), and its channels."""

    resolution: int
    kind: str
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        return f"{self.resolution}x{self.resolution}_{self.kind}"


LARGEST = {"blocks": 64, "multipliers": 64}
"""Beyond these, and 65536 for other sizes, a network is taken for a mistake: sizes may come from a file, and cost time and memory."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the sizes of the U-Nets have in common.

    The resolution halves at each of `multipliers`, times which `width` is the channels; `attention` holds the resolutions that have it. Raises
    ValueError where no network has such sizes.
    """

    resolution: int
    channels: int
    label_count: int = 0
    width: int = 192
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (16, 8)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            least, most = int(not field.name.endswith("_count")), LARGEST.get(field.name, 65536)
            for one in value if isinstance(value, tuple) else (value,):
                if one is None and "None" in kind:
                    continue
                if "int" in kind and not (isinstance(one, int) and least <= one <= most):
                    raise ValueError(f"{field.name}: expected whole numbers from {least} to {most}")
                if "float" in kind and not isinstance(one, (int, float)):
                    raise ValueError(f"{field.name}: expected a number")
        levels = len(self.multipliers)
        if not levels or self.resolution % 2 ** (levels - 1):
            raise ValueError(f"resolution {self.resolution} does not halve {levels - 1} times, as {levels} multipliers say")


def plan(sizes: Sizes, inputs: int, stem: int) -> tuple[list[Place], list[Place]]:
    """The layers of encoder and decoder in the order in which they run; `inputs` channels enter, `stem` leave the first convolution."""
    levels = [(sizes.resolution >> level, sizes.width * multiplier) for level, multiplier in enumerate(sizes.multipliers)]
    encoder = [Place(sizes.resolution, "conv", inputs, stem)]
    for resolution, width in levels:
        current = encoder[-1].outputs
        if resolution != sizes.resolution:
            encoder.append(Place(resolution, "down", current, current))
        for index in range(sizes.blocks):
            encoder.append(Place(resolution, f"block{index}", encoder[-1].outputs, width))
    skips, current = [place.outputs for place in encoder], encoder[-1].outputs
    decoder = [Place(levels[-1][0], kind, current, current) for kind in ("in0", "in1")]
    for resolution, width in reversed(levels):
        if resolution != levels[-1][0]:
            decoder.append(Place(resolution, "up", current, current))
        for index in range(sizes.blocks + 1):
            decoder.append(Place(resolution, f"block{index}", current + skips.pop(), width))
            current = width
    return encoder, decoder


class Backbone(nn.Module):
    """A U-Net F(x; noise, label) whose layers stand in `enc` and `dec` under the names of their places, in the order in which they run.

    The decoder begins with the layers "in0" and "in1" at the coarsest resolution; what they return is the bottleneck.
    """

    enc: nn.ModuleDict
    dec: nn.ModuleDict

    def embed(self, noise: Float[Tensor, " b"], label: Float[Tensor, "b n"] | None) -> Tensor:
        """c_noise and one-hot labels (zeros: no label) -> the embedding that the blocks are conditioned on."""
        raise NotImplementedError

    def join(self, hidden: Tensor, skip: Tensor) -> Tensor:
        """Bring an encoder's activations back in."""
        return torch.cat([hidden, skip], dim=1)

    def head(self, hidden: Tensor) -> Tensor:
        """The decoder's last activations -> F."""
        raise NotImplementedError

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor], Features]:
        """The bottleneck, what the decoder takes from the encoder, and the features at each depth."""
        hidden = pyramid = x
        skips: list[Tensor] = []
        features: Features = {}
        for name, layer in self.enc.items():
            if name.endswith("_aux_residual"):  # NCSN++: a pyramid of the input is mixed in at each resolution
                hidden = pyramid = skips[-1] = (hidden + layer(pyramid)) * math.sqrt(0.5)
            else:
                hidden = layer(hidden) if name.endswith("_conv") else layer(hidden, embedding)
                skips.append(hidden)
            features[name.split("x")[0]] = hidden
        for name, layer in self.dec.items():
            if name.endswith(("_in0", "_in1")):
                hidden = layer(hidden, embedding)
        return hidden, skips, features | {"bottleneck": hidden}

    def decode(self, hidden: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """F, from the bottleneck and the encoder's activations."""
        remaining = list(skips)
        for name, layer in self.dec.items():
            if "_block" in name:
                hidden = layer(self.join(hidden, remaining.pop()), embedding)
            elif name.endswith("_up"):
                hidden = layer(hidden, embedding)
        return self.head(hidden)


class Preconditioned(Denoiser):
    """A `Denoiser` around a backbone: (x_t, t, cond) -> prediction of x_0, with t = sigma (variance-exploding).

    Features are those of the encoder at the end of a resolution ("32", "16", ...), or "bottleneck". A network without labels leaves a
    condition's out; one with labels takes none as zeros in place of the one-hot vector.
    """

    def __init__(self, sizes: Sizes, precond: Preconditioning) -> None:
        super().__init__()
        self.sizes, self.precond = sizes, precond
        self.schedule = EDM()
        self.image_shape = (sizes.channels, sizes.resolution, sizes.resolution)
        self.label_count = sizes.label_count

    @property
    def backbone(self) -> Backbone:
        raise NotImplementedError

    @property
    def depth_channels(self) -> dict[str, int]:
        widths = {str(self.sizes.resolution >> level): self.sizes.width * multiplier for level, multiplier in enumerate(self.sizes.multipliers)}
        return widths | {"bottleneck": self.sizes.width * self.sizes.multipliers[-1]}

    @overload
    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...
    @overload
    def forward(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> tuple[Tensor, Features]: ...

    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition, depths: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, Features]:
        """Predict x_0 from x_t at noise level t = sigma; with `depths`, also return the features at those depths."""
        c, backbone = self.precond(t), self.backbone
        embedding = backbone.embed(c.noise, self._one_hot(cond.label, x_t))
        hidden, skips, features = backbone.encode(like(c.inner, x_t) * x_t, embedding)
        x0 = like(c.skip, x_t) * x_t + like(c.out, x_t) * backbone.decode(hidden, skips, embedding)
        return (x0, {depth: features[depth] for depth in depths}) if depths else x0

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        """Only the features at `depths`: half the cost of a prediction."""
        c = self.precond(t)
        embedding = self.backbone.embed(c.noise, self._one_hot(cond.label, x_t))
        features = self.backbone.encode(like(c.inner, x_t) * x_t, embedding)[2]
        return {depth: features[depth] for depth in depths}

    def target_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """1/c_out^2, under which F's own error has unit weight (Karras et al. 2022, eq. 8)."""
        return self.precond(t).out ** -2

    def _one_hot(self, label: Int64[Tensor, " b"] | None, x: Tensor) -> Tensor | None:
        if not self.label_count:
            return None
        if label is None:
            return x.new_zeros(len(x), self.label_count)
        rows = label.remainder(self.label_count + 1)  # the last, of -1, is no label
        return F.one_hot(rows, self.label_count + 1)[:, :-1].to(x.dtype)


def read_plain(kind: Any, values: dict[str, Any]) -> Any:
    """A frozen dataclass from plain data, whose lists become tuples. Raises TypeError for other fields than its own."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
