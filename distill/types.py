"""The types that cross rooms: noise schedules, conditions, denoisers, generators, rewards, scores and losses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


@runtime_checkable
class NoiseSchedule(Protocol):
    """A noise schedule: x_t = alpha(t) x_0 + sigma(t) eps. All functions work elementwise on tensors of
    times."""

    @property
    def t_max(self) -> float | None:
        """The noisiest time, None if there is no bound."""
        ...

    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def t(self, noise_to_signal: Tensor) -> Tensor:
        """Return the time at which sigma/alpha equals `noise_to_signal`."""
        ...

    def step_times(self, t: float, count: int) -> list[float]:
        """Return the times at which `count` steps begin: the first at t, the others evenly on the way to no
        noise."""
        ...


def max_noise_to_signal(schedule: NoiseSchedule) -> float:
    """Return the largest sigma/alpha of a schedule."""
    if schedule.t_max is None:
        return math.inf
    t = torch.tensor(schedule.t_max, dtype=torch.float64)
    return (schedule.sigma(t) / schedule.alpha(t)).item()


def expand_like(value: Tensor, x: Tensor) -> Tensor:
    """Append axes to a per-sample (b,) tensor so that it broadcasts against x (b, ...)."""
    return value.reshape(-1, *[1] * (x.ndim - 1))


@runtime_checkable
class DataSource(Protocol):
    """A source of images by index: `source[i]` is an image (c, h, w) in [-1, 1], float32, and its label, 0 if
    it has none."""

    @property
    def image_shape(self) -> tuple[int, ...]: ...
    @property
    def label_count(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


Features = dict[str, Tensor]
"""A network's hidden activations by the name of their depth, each (b, channels, ...)."""


@dataclasses.dataclass(frozen=True)
class Text:
    """Encoded prompts, as tensors by name: `tokens` (b, n, width), `pooled` (b, width), `mask` (b, n), 0 for
    padding."""

    given: dict[str, Tensor]
    unconditional: dict[str, Tensor]
    """One row, (1, ...), that stands for no prompt; a tensor that is absent here is the same without a
    prompt."""
    prompts: tuple[str, ...] = ()
    """The prompts themselves, "" for none, for rewards that read them; empty if no reward does."""

    def __len__(self) -> int:
        return len(next(iter(self.given.values())))

    @property
    def device(self) -> torch.device:
        return next(iter(self.given.values())).device

    def __getitem__(self, rows: slice | Tensor) -> Text:
        prompts = self.prompts
        if prompts:
            prompts = (
                prompts[rows] if isinstance(rows, slice) else tuple(prompts[row] for row in rows.tolist())
            )
        return Text({name: value[rows] for name, value in self.given.items()}, self.unconditional, prompts)

    def to(self, device: torch.device | str) -> Text:
        given = {name: value.to(device) for name, value in self.given.items()}
        unconditional = {name: value.to(device) for name, value in self.unconditional.items()}
        return Text(given, unconditional, self.prompts)

    def drop(self, rows: Bool[Tensor, " b"]) -> Text:
        """Remove the prompt in these rows."""
        replaced = {
            name: torch.where(expand_like(rows, value), value, self.given[name])
            for name, value in self.unconditional.items()
        }
        prompts = self.prompts
        if prompts:
            kept = zip(prompts, rows.tolist(), strict=True)
            prompts = tuple("" if dropped else prompt for prompt, dropped in kept)
        return Text({**self.given, **replaced}, self.unconditional, prompts)


@dataclasses.dataclass(frozen=True)
class Condition:
    """The condition of a batch: labels, or encoded prompts, or neither."""

    label: Int64[Tensor, " b"] | None = None
    """Class indices in [0, label_count); -1, or None for a whole batch, means unconditional."""
    text: Text | None = None

    def with_unconditional(self) -> Condition:
        """Return the rows of this condition, followed by as many unconditional rows: both sides of a guided
        prediction.

        Raises ValueError if there is no condition.
        """
        given = self.label if self.text is None else self.text
        if given is None:
            raise ValueError("guidance: needs a condition; found none")
        rows = torch.arange(len(given), device=given.device)
        twice = self[torch.cat([rows, rows])]
        return twice.drop(torch.cat([rows < 0, rows >= 0]))

    def drop(self, rows: Bool[Tensor, " b"]) -> Condition:
        """Make these rows unconditional."""
        label = None if self.label is None else self.label.masked_fill(rows, -1)
        return Condition(label, None if self.text is None else self.text.drop(rows))

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        return Condition(
            None if self.label is None else self.label[rows], None if self.text is None else self.text[rows]
        )

    def to(self, device: torch.device | str) -> Condition:
        return Condition(
            None if self.label is None else self.label.to(device),
            None if self.text is None else self.text.to(device),
        )


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of unit noise z, (b, *image_shape), and the image x, of the same shape, that the teacher's
    many-step sampler makes of z under `cond`."""

    z: Float[Tensor, "b ..."]
    cond: Condition
    x: Float[Tensor, "b ..."]

    def __getitem__(self, rows: slice | Tensor) -> Pairs:
        return Pairs(self.z[rows], self.cond[rows], self.x[rows])

    def to(self, device: torch.device | str) -> Pairs:
        return Pairs(self.z.to(device), self.cond.to(device), self.x.to(device))


@runtime_checkable
class ImageCodec(Protocol):
    """The autoencoder of a latent model: frozen, and shared by the copies of its network."""

    def pixel_shape(self, latent_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the images of latents of this shape."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Encode images in [-1, 1], (b, *pixel_shape), as latents, (b, *latent_shape)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents, (b, *latent_shape), to images in [-1, 1] up to overshoot, (b, *pixel_shape)."""
        ...

    def components(self) -> dict[str, nn.Module]:
        """Return its networks by name."""
        ...

    def components_to_bundle(self) -> dict[str, nn.Module]:
        """Return those of its networks that an export must carry, since they lie on this machine only."""
        ...


@runtime_checkable
class PromptEncoder(Protocol):
    """The text encoders of a text-to-image model: frozen, and shared by the copies of its network."""

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Encode prompts as a condition, (b,)."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one encoded prompt by name, without encoding any."""
        ...

    def sha256(self) -> str:
        """Hash everything that an encoded prompt depends on besides the prompt."""
        ...

    def components(self) -> dict[str, nn.Module]:
        """Return its networks by name."""
        ...


class ImageModel(nn.Module):
    """Base of denoisers and generators: the space in which they work, (b, *image_shape), and the images that
    it stands for.

    That space is the images' own unless the model holds a codec; its conditions are labels unless it holds a
    prompt encoder.
    """

    image_shape: tuple[int, ...]
    label_count: int
    codec: ImageCodec | None = None
    prompt_encoder: PromptEncoder | None = None

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """Shape of its images."""
        return self.image_shape if self.codec is None else self.codec.pixel_shape(self.image_shape)

    def encode(self, images: Tensor) -> Tensor:
        """Bring images in [-1, 1], (b, *pixel_shape), into the model's own space, (b, *image_shape)."""
        return images if self.codec is None else self.codec.encode(images)

    def decode(self, x0: Tensor) -> Tensor:
        """Turn the model's output, (b, *image_shape), into images in [-1, 1] up to overshoot, (b,
        *pixel_shape)."""
        return x0 if self.codec is None else self.codec.decode(x0)

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Encode prompts as a condition. Raises ValueError for a model without a prompt encoder."""
        if self.prompt_encoder is None:
            raise ValueError(f"{type(self).__name__} takes no prompts")
        return self.prompt_encoder.encode(prompts)

    @property
    def takes_text(self) -> bool:
        return self.prompt_encoder is not None

    def frozen_components(self) -> dict[str, nn.Module]:
        """Return the networks of its codec and of its prompt encoder, which its copies share."""
        codec = {} if self.codec is None else self.codec.components()
        return codec if self.prompt_encoder is None else {**codec, **self.prompt_encoder.components()}

    def components(self) -> dict[str, Any]:
        """Return everything besides its own weights that decides its images.

        These are its frozen components, and a pipeline's scheduler, tokenizers and settings.
        """
        return dict(self.frozen_components())


class EntryPoint(NamedTuple):
    """The point at which a step of a generator enters a denoiser: alpha times the image so far plus sigma
    times unit noise, at time t."""

    t: float
    alpha: float
    sigma: float


class Denoiser(ImageModel):
    """A network that predicts x_0 from x_t = alpha(t) x_0 + sigma(t) eps: teacher, fake score, and the
    network in a generator.

    It is called with x_t (b, *image_shape), t (b,) and a condition. With `depths` it also returns its
    features at these depths.
    """

    schedule: NoiseSchedule

    def entry_points(self, noise_to_signal: Sequence[float]) -> list[EntryPoint]:
        """Return the entry points of a generator's steps at these sigma/alpha."""
        t = self.schedule.t(torch.tensor(noise_to_signal, dtype=torch.float64))
        return [
            EntryPoint(*row)
            for row in torch.stack([t, self.schedule.alpha(t), self.schedule.sigma(t)], 1).tolist()
        ]

    def student_noise_levels(self, noise_to_signal: float, count: int) -> tuple[float, ...]:
        """Return sigma/alpha of `count` steps of a generator: the first is given, the others are spaced
        evenly in the schedule's time."""
        t = torch.tensor(
            self.schedule.step_times(self.entry_points([noise_to_signal])[0].t, count)[1:],
            dtype=torch.float64,
        )
        return (noise_to_signal, *(self.schedule.sigma(t) / self.schedule.alpha(t)).tolist())

    def level_range(self) -> tuple[float, float]:
        """Return the lowest and the highest sigma/alpha above 0 at which a sampler may evaluate it."""
        return 0.0, max_noise_to_signal(self.schedule)

    def nearest_level(self, noise_to_signal: float) -> float:
        """Return the sigma/alpha of its training that is nearest to this one: this one itself, for most
        networks."""
        return noise_to_signal

    @property
    def depth_channels(self) -> dict[str, int]:
        """The depths at which it returns features, by name, and the channels of each."""
        raise NotImplementedError

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        """Return the features at these depths, at less cost than a prediction."""
        raise NotImplementedError

    def target_weight(self, t: Tensor) -> Tensor:
        """Return the weight of the squared error of x_0, (b,), under which the network's own training target
        counts equally at every level."""
        raise NotImplementedError


class Prediction(NamedTuple):
    """Output of one network at x_t: the guided x_0, discriminator logits, (b,) or (b, n), if the
    discriminator reads this network, and the detached conditional and unconditional predictions of x_0, if
    both were computed."""

    x0: Float[Tensor, "b ..."]
    logits: Tensor | None = None
    conditional: Float[Tensor, "b ..."] | None = None
    unconditional: Float[Tensor, "b ..."] | None = None


def per_sample(values: Tensor) -> Tensor:
    """Return values (b,) unchanged, and values (b, n) averaged over positions: (b,)."""
    return values if values.ndim == 1 else values.flatten(1).mean(1)


class Critic(nn.Module):
    """A discriminator on another network's features: it returns the logit of log p_t/q_t, (b,), or one for
    each of n positions, (b, n)."""

    reads: str
    """The network whose features it takes: "teacher" or "fake"."""

    @property
    def depths(self) -> Sequence[str]:
        """The depths of the features that it takes."""
        raise NotImplementedError


class Reward(nn.Module):
    """A score of images: from images (b, c, h, w) in [-1, 1] up to overshoot, and their condition, to (b,),
    differentiable in the images.

    A reward of text reads `cond.text.prompts`, a reward of labels `cond.label`.
    """

    def forward(self, images: Tensor, cond: Condition) -> Tensor:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return everything that decides a score besides weights, as plain data: sizes, preprocessing,
        tokenizer. Scores are stored by it."""
        return {}


class Generator(ImageModel):
    """A generator: from noise z ~ N(0, I), (b, *noise_shape), and a condition to x_0, with one network
    evaluation for each noise in z.

    The noises, each of `image_shape`, follow one another along the first axis after the batch. With fewer
    noises than `evaluations` the generator stops early.
    """

    evaluations: int = 1
    """Network evaluations per image."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise for one image."""
        return (self.evaluations * self.image_shape[0], *self.image_shape[1:])


@dataclasses.dataclass(frozen=True)
class Scores:
    """Everything that an objective may read, for a batch of student samples x0 with noise of level t."""

    x0: Float[Tensor, "b ..."]
    x_t: Float[Tensor, "b ..."]
    alpha: Float[Tensor, "b ..."]
    """(b, 1, ...), broadcasts against x0."""
    sigma: Float[Tensor, "b ..."]
    """(b, 1, ...), broadcasts against x0."""
    teacher: Float[Tensor, "b ..."]
    """The teacher's prediction of x_0 at x_t."""
    fake: Float[Tensor, "b ..."]
    """The fake score's prediction of x_0 at x_t."""
    log_ratio: Float[Tensor, " b"]
    """log p_t/q_t at x_t; zero if the objective needs none."""


@dataclasses.dataclass(frozen=True)
class LossOutput:
    """A loss per sample, and detached tensors whose means are logged."""

    loss: Float[Tensor, " b"]
    metrics: dict[str, Tensor] = dataclasses.field(default_factory=dict)


Objective = Callable[[Scores], LossOutput]
