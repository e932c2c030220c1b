"""The student: a denoiser evaluated once, at its entry noise level."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from distill.schedules import like
from distill.types import Condition, Denoiser, Generator


class OneStepGenerator(Generator):
    """A `Generator`: x_0 = D(sigma_init z, t_init, cond), z ~ N(0, I) of shape (b, *image_shape).

    `init_noise_to_signal` is sigma/alpha at the entry: 2.5 for SiD, the teacher's sigma_max for DMD and f-distill.
    """

    def __init__(self, denoiser: Denoiser, init_noise_to_signal: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.init_noise_to_signal = init_noise_to_signal
        self.image_shape = denoiser.image_shape
        self.label_count = denoiser.label_count

    def forward(self, z: Float[Tensor, "b ..."], cond: Condition) -> Float[Tensor, "b ..."]:
        schedule = self.denoiser.schedule
        t = schedule.t(z.new_full((len(z),), self.init_noise_to_signal))
        return self.denoiser(like(schedule.sigma(t), z) * z, t, cond)
