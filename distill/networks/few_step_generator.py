"""Students of one or a few steps: a denoiser at its entry noise level, then on its own image noised again."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.diffusion.constants import constant
from distill.types import Condition, Denoiser, Generator, StepInputs, expand_like


class FewStepGenerator(Generator):
    """A `Generator` that evaluates a denoiser D once or a few times.

    The first step gives x_0 = D(sigma_1 z_1, t_1, cond), each further step x_0 <- D(alpha_k x_0 + sigma_k
    z_k, t_k, cond). `noise_to_signal` is sigma/alpha at the entry of each step, falling. The first is 2.5 for
    SiD, and the teacher's sigma_max for DMD and f-distill. Gradient flows through the last step only: the
    earlier steps give the images that a student learns from, as in DMD2 (Yin et al. 2024, section 4.5). With
    `inputs` one step alone is taken, from images that are given.
    """

    def __init__(self, denoiser: Denoiser, *noise_to_signal: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.noise_to_signal = noise_to_signal
        self.entry_points = denoiser.entry_points(noise_to_signal)
        self.evaluations = len(noise_to_signal)
        self.image_shape, self.label_count = denoiser.image_shape, denoiser.label_count
        self.codec, self.prompt_encoder = denoiser.codec, denoiser.prompt_encoder
        self.takes_reduced_weights = denoiser.takes_reduced_weights
        self._check_times_fall()

    def forward(
        self, z: Float[Tensor, "b ..."], cond: Condition, inputs: StepInputs | None = None
    ) -> Float[Tensor, "b ..."]:
        """Make images from z, (b, *noise_shape); with fewer noises than steps, stop after as many steps.

        With `inputs`, z holds one noise, and each sample takes the one step that they name.
        """
        if inputs is not None:
            return self._take_step(z, cond, inputs)
        noises = z.split(self.image_shape[0], dim=1)
        if len(noises) > self.evaluations:
            raise ValueError(
                f"z: {len(noises)} noises; expected at most {self.evaluations}, one for each step"
            )
        entry = self.entry_points[0]
        x_t = entry.sigma * noises[0]
        for following, noise in zip(self.entry_points[1:], noises[1:], strict=False):
            with torch.no_grad():
                x0 = self._denoise(x_t, entry.t, cond).to(noise.dtype)
            entry = following
            x_t = entry.alpha * x0 + entry.sigma * noise
        return self._denoise(x_t, entry.t, cond)

    def resumed_at(
        self, z: Float[Tensor, "b ..."], cond: Condition, inputs: StepInputs | None = None
    ) -> float | Tensor | None:
        """Return the time at which the last step enters: of z, or of each sample with `inputs`."""
        if inputs is not None:
            times = (math.inf, *(entry.t for entry in self.entry_points[1:]))
            return constant(times, z)[inputs.step]
        steps = z.shape[1] // self.image_shape[0]
        return None if steps == 1 else self.entry_points[steps - 1].t

    def _take_step(self, z: Tensor, cond: Condition, inputs: StepInputs) -> Tensor:
        """Denoise each image after adding noise of the level at which its step enters."""
        if z.shape != inputs.images.shape:
            raise ValueError(
                f"z: {tuple(z.shape)}; expected {tuple(inputs.images.shape)}, one noise for each"
            )
        t, alpha, sigma = (
            constant(values, inputs.images)[inputs.step] for values in zip(*self.entry_points, strict=True)
        )
        alpha = torch.where(inputs.step == 0, 0.0, alpha)
        x_t = expand_like(alpha, z) * inputs.images + expand_like(sigma, z) * z
        return self.denoiser(x_t, t, cond)

    def _denoise(self, x_t: Tensor, t: float, cond: Condition) -> Tensor:
        return self.denoiser(x_t, x_t.new_full((len(x_t),), t), cond)

    def _check_times_fall(self) -> None:
        """Refuse levels whose entry points, which a denoiser may round, do not follow one another in time."""
        steps = zip(self.noise_to_signal[1:], self.entry_points, self.entry_points[1:], strict=False)
        for level, before, entry in steps:
            if entry.t >= before.t:
                found = f"{level:g} is entered at t = {entry.t:g} and the step before it at {before.t:g}"
                raise UserError(f"generator.further_noise_to_signal: {found}; expected a lower level")

    def components(self) -> dict[str, Any]:
        return self.denoiser.components()


class ImageGenerator(FewStepGenerator):
    """A `FewStepGenerator` for use: its images are clamped to [-1, 1]; vectors and latents are not.

    Values that are not finite stay so, for callers that check. Training uses the base class: a clamp would
    stop gradients.
    """

    def forward(
        self, z: Float[Tensor, "b ..."], cond: Condition, inputs: StepInputs | None = None
    ) -> Float[Tensor, "b ..."]:
        """Make images in [-1, 1], (b, *image_shape), or in a latent model the latents that `decode` takes."""
        x0 = super().forward(z, cond, inputs)
        return x0 if self.codec is not None else self._clamp(x0)

    def decode(self, x0: Tensor) -> Tensor:
        """Turn the output of `forward` into images in [-1, 1], (b, *pixel_shape)."""
        return self._clamp(super().decode(x0))

    def _clamp(self, images: Tensor) -> Tensor:
        if len(self.pixel_shape) != 3:
            return images
        return torch.where(images.isfinite(), images.clamp(-1, 1), images)
