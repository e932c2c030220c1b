"""The student: a denoiser evaluated at its entry noise level, and in students of more steps again, on its own image noised anew."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.types import Condition, Denoiser, Generator


class FewStepGenerator(Generator):
    """A `Generator`: x_0 = D(sigma_1 z_1, t_1, cond), and for each further step x_0 <- D(alpha_k x_0 + sigma_k z_k, t_k, cond).

    `noise_to_signal` is sigma/alpha at the entry of each step, falling. The first is 2.5 for SiD, the teacher's sigma_max for DMD and f-distill.
    Gradient flows through the last step alone: a student learns from its own images of the earlier ones, as in DMD2 (Yin et al. 2024, section 4.5).
    Raises UserError where the denoiser cannot be entered there, or only at the time of the step before.
    """

    def __init__(self, denoiser: Denoiser, *noise_to_signal: float) -> None:
        super().__init__()
        self.denoiser, self.noise_to_signal = denoiser, noise_to_signal
        self.entry_points, self.evaluations = denoiser.entry_points(noise_to_signal), len(noise_to_signal)
        self.image_shape, self.label_count = denoiser.image_shape, denoiser.label_count
        self.codec, self.prompt_encoder = denoiser.codec, denoiser.prompt_encoder
        for level, before, entry in zip(
            noise_to_signal[1:], self.entry_points, self.entry_points[1:], strict=False
        ):
            if entry.t >= before.t:
                found = f"{level:g} is entered at t = {entry.t:g} and the step before it at {before.t:g}"
                raise UserError(f"generator.further_noise_to_signal: {found}; expected a lower level")

    def forward(self, z: Float[Tensor, "b ..."], cond: Condition) -> Float[Tensor, "b ..."]:
        """Images of as many steps as z holds noises. Raises ValueError where it holds more than there are steps."""
        noises = z.split(self.image_shape[0], dim=1)
        if len(noises) > self.evaluations:
            raise ValueError(
                f"z: {len(noises)} noises; expected at most {self.evaluations}, one for each step"
            )
        entry, x_t = self.entry_points[0], self.entry_points[0].sigma * noises[0]
        for following, noise in zip(self.entry_points[1:], noises[1:], strict=False):
            with torch.no_grad():
                x0 = self._denoise(x_t, entry.t, cond).to(noise.dtype)
            entry, x_t = following, following.alpha * x0 + following.sigma * noise
        return self._denoise(x_t, entry.t, cond)

    def _denoise(self, x_t: Tensor, t: float, cond: Condition) -> Tensor:
        return self.denoiser(x_t, x_t.new_full((len(x_t),), t), cond)

    def components(self) -> dict[str, Any]:
        return self.denoiser.components()


class ImageGenerator(FewStepGenerator):
    """A `FewStepGenerator` for those who use its images: they lie in [-1, 1], since overshoot is clamped. Vectors and latents are left as they are.

    A value that is not finite stays so, for those who check. A student in training is none of these: a clamp would stop its gradient.
    """

    def forward(self, z: Float[Tensor, "b ..."], cond: Condition) -> Float[Tensor, "b ..."]:
        """Images in [-1, 1], (b, *image_shape); of a model of latents, the latents that `decode` takes. Raises as `FewStepGenerator` does."""
        x0 = super().forward(z, cond)
        return x0 if self.codec is not None else self._clamp(x0)

    def decode(self, x0: Tensor) -> Tensor:
        """Images in [-1, 1], (b, *pixel_shape), of what `forward` returns."""
        return self._clamp(super().decode(x0))

    def _clamp(self, images: Tensor) -> Tensor:
        if len(self.pixel_shape) != 3:
            return images
        return torch.where(images.isfinite(), images.clamp(-1, 1), images)
