"""Models of images: denoisers, generators, and the objects that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.types.condition import Condition
from distill.types.schedule import NoiseSchedule, max_noise_to_signal

Features = dict[str, Tensor]
"""A network's hidden activations by the name of their depth, each (b, channels, ...)."""


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
        """Hash everything that an encoded prompt depends on, except the prompt."""
        ...

    def components(self) -> dict[str, nn.Module]:
        """Return its networks by name."""
        ...


class ImageModel(nn.Module):
    """Base of denoisers and generators: the space in which they work, and the images it stands for.

    That space, (b, *image_shape), is the images' own unless the model holds a codec. Conditions are labels
    unless it holds a prompt encoder.
    """

    image_shape: tuple[int, ...]
    label_count: int
    codec: ImageCodec | None = None
    prompt_encoder: PromptEncoder | None = None
    takes_reduced_weights: bool = False
    """It can compute with its weights in bfloat16, without autocast."""
    is_quantized: bool = False
    """Its weights are quantised: they are frozen, and no copy of it can be trained."""

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

    def drop_encoder(self) -> None:
        """Free the part of its codec that encodes images, if it can: no image will be encoded."""

    def components(self) -> dict[str, Any]:
        """Return everything that decides its images, except its own weights.

        These are its frozen components, and a pipeline's scheduler, tokenizers and settings.
        """
        return dict(self.frozen_components())


class EntryPoint(NamedTuple):
    """The point at which a generator's step enters a denoiser.

    The input at time t is alpha times the image so far plus sigma times unit noise.
    """

    t: float
    alpha: float
    sigma: float


class Denoiser(ImageModel):
    """A network that predicts x_0 from x_t = alpha(t) x_0 + sigma(t) eps.

    Teacher and fake score are denoisers, and most generators hold one. It is called with x_t (b,
    *image_shape), t (b,) and a condition; with `depths` it also returns its features at these depths.
    """

    schedule: NoiseSchedule

    def whole_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that every process holds whole where the others are sharded.

        These are the ones without dimensions; they cannot be split.
        """
        return [parameter for parameter in self.parameters() if parameter.ndim == 0]

    def initialize_own_weights(self, device: torch.device) -> None:
        """Initialise the weights that are not the teacher's, on a device: adapters have such ones."""

    def require_unconditional(self) -> None:
        """Raise UserError if it cannot predict without a condition, as guidance does."""

    def entry_points(self, noise_to_signal: Sequence[float]) -> list[EntryPoint]:
        """Return the entry points of a generator's steps at these sigma/alpha."""
        t = self.schedule.t(torch.tensor(noise_to_signal, dtype=torch.float64))
        return [
            EntryPoint(*row)
            for row in torch.stack([t, self.schedule.alpha(t), self.schedule.sigma(t)], 1).tolist()
        ]

    def student_noise_levels(self, noise_to_signal: float, count: int) -> tuple[float, ...]:
        """Return sigma/alpha of `count` steps of a generator, of which the first is given.

        The others are spaced evenly in the schedule's time.
        """
        t = torch.tensor(
            self.schedule.step_times(self.entry_points([noise_to_signal])[0].t, count)[1:],
            dtype=torch.float64,
        )
        return (noise_to_signal, *(self.schedule.sigma(t) / self.schedule.alpha(t)).tolist())

    def level_range(self) -> tuple[float, float]:
        """Return the lowest and the highest sigma/alpha above 0 at which a sampler may evaluate it."""
        return 0.0, max_noise_to_signal(self.schedule)

    def nearest_level(self, noise_to_signal: float) -> float:
        """Return the sigma/alpha of its training that is nearest to this one.

        For most networks it is this one itself.
        """
        return noise_to_signal

    @property
    def depth_channels(self) -> dict[str, int]:
        """The depths at which it returns features, and the channels of each; empty if it has none."""
        raise NotImplementedError

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        """Return the features at these depths, at less cost than a prediction."""
        raise NotImplementedError

    def target_weight(self, t: Tensor) -> Tensor:
        """Return the weight of the squared error of x_0, (b,).

        Under it the network's own training target counts equally at every level.
        """
        raise NotImplementedError


class Prediction(NamedTuple):
    """Output of one network at x_t."""

    x0: Float[Tensor, "b ..."]
    """The guided prediction of x_0."""
    logits: Tensor | None = None
    """The discriminator's logits, (b,) or (b, n), if it reads this network."""
    conditional: Float[Tensor, "b ..."] | None = None
    """The conditional prediction of x_0, without a graph, if both sides were computed."""
    unconditional: Float[Tensor, "b ..."] | None = None
    """The unconditional prediction of x_0, without a graph, if both sides were computed."""


class StepInputs(NamedTuple):
    """Images, (b, *image_shape), that enter one step of a generator each, with noise, and these steps."""

    images: Tensor
    step: Int64[Tensor, " b"]
    """Counted from 0. The first step reads pure noise, whatever the image is."""


class Generator(ImageModel):
    """A generator: noise z ~ N(0, I) and a condition become x_0.

    z is (b, *noise_shape) and holds one noise of `step_noise_shape` for each network evaluation, along its
    first axis after the batch. With fewer noises than `evaluations` the generator stops early.
    """

    evaluations: int = 1
    """Network evaluations per image."""

    @property
    def step_noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise of one evaluation: that of an image, unless the generator says otherwise."""
        return self.image_shape

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise for one image."""
        return (self.evaluations * self.step_noise_shape[0], *self.step_noise_shape[1:])

    def condition_of(self, z: Tensor) -> Condition | None:
        """Return the condition that belongs to each noise: its label, or the number of its prompt, and a
        camera.

        None, as for most generators, if each noise goes with any condition.
        """
        return None

    def resumed_at(
        self, z: Tensor, cond: Condition, inputs: StepInputs | None = None
    ) -> float | Tensor | None:
        """Return the time at which the last step enters an image with noise, given the generator's arguments.

        None if all samples take the first step, which enters pure noise. Samples with `inputs` have times of
        their own, (b,), infinite for the first step.
        """
        return None

    def images(self, z: Tensor, cond: Condition) -> Tensor:
        """Make images in [-1, 1] up to overshoot, (b, *pixel_shape)."""
        return self.decode(self(z, cond))
