"""One process's part of a batch, as tensors on its device."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from distill.types import Condition, Pairs, StepInputs


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise for b samples: quantiles of the noise level, and the noise itself."""

    u: Tensor
    """Quantiles of the noise level, (b,), uniform in (0, 1)."""
    eps: Tensor
    """N(0, I), (b, *image_shape)."""

    def __getitem__(self, rows: slice) -> Noise:
        return Noise(self.u[rows], self.eps[rows])


@dataclasses.dataclass(frozen=True)
class Batch:
    """One process's part of a batch of b samples."""

    z: Tensor
    """Noise of the generator, (b, *noise_shape), N(0, I); for fewer steps than the generator has, the noises
    of those alone."""
    cond: Condition
    u: Tensor
    """Quantiles of the noise level in the generator's update, (b,), uniform in (0, 1)."""
    eps: Tensor
    """Noise added to the samples in the generator's update, (b, *image_shape), N(0, I)."""
    u_fake: Tensor
    """Quantiles of the noise level in the updates of fake score and discriminator, (b,)."""
    eps_fake: Tensor
    """Noise added to the samples in those updates, (b, *image_shape)."""
    real: Tensor | None = None
    """Images of the data in [-1, 1], under the same conditions as the samples; None if none are shown."""
    eps_real: Tensor | None = None
    """Noise added to `real`, (b, *image_shape); None without real images."""
    step: Tensor | None = None
    """Step of the generator that each sample takes, (b,), counted from 0, with the image in `real` noised as
    its input; None if the generator makes its own inputs."""
    pairs: Pairs | None = None
    """b pairs of other noise and the teacher's image; None if no term needs them."""
    crop_positions: Tensor | None = None
    """Positions of each sample's crop, (b, 2), uniform in (0, 1), for terms that crop."""
    gan_noise: Noise | None = None
    """Noise for the discriminator's view of the samples in the generator's update; None for that of the
    scores."""
    discriminator_noise: Noise | None = None
    """Noise for the discriminator's view of the samples in its own update; None for that of the fake score.
    """
    real_noise: Noise | None = None
    """Noise for the discriminator's view of real images; None for `u_fake` and `eps_real`."""

    implicit_reward_noise: Noise | None = None
    """Noise of the implicit reward's own levels; None for that of the objective."""

    def __len__(self) -> int:
        return len(self.z)

    def noise_of_term(self, name: str) -> Noise:
        """Return the noise that a term adds to the samples by itself."""
        noise = {"gan": self.gan_noise, "implicit_reward": self.implicit_reward_noise}.get(name)
        if noise is None:
            raise ValueError(f"terms: {name} has no noise of its own in the batch")
        return noise

    @property
    def generator_inputs(self) -> tuple[Tensor, Condition] | tuple[Tensor, Condition, StepInputs]:
        """Arguments of the generator."""
        if self.step is None:
            return self.z, self.cond
        if self.real is None:
            raise ValueError("generator.step_inputs: the batch has no real images")
        return self.z, self.cond, StepInputs(self.real, self.step)

    @property
    def noise(self) -> Noise:
        """Noise of the samples in the generator's update."""
        return Noise(self.u, self.eps)

    @property
    def fake_noise(self) -> Noise:
        """Noise of the samples in the updates of fake score and discriminator."""
        return Noise(self.u_fake, self.eps_fake)

    @property
    def noise_of_real(self) -> Noise:
        """Noise of the real images."""
        if self.real_noise is not None:
            return self.real_noise
        if self.eps_real is None:
            raise ValueError("the batch has no real images")
        return Noise(self.u_fake, self.eps_real)

    def split(self, size: int | None) -> list[Batch]:
        """Split into micro-batches of at most `size` samples; None keeps the batch whole."""
        if size is None or size >= len(self):
            return [self]
        return [self._part(slice(start, start + size)) for start in range(0, len(self), size)]

    def _part(self, rows: slice) -> Batch:
        changed = {
            field.name: value[rows]
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return dataclasses.replace(self, **changed)
