"""The student: a denoiser evaluated once, at its entry noise level."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from distill.types import Condition, Denoiser, Generator


class OneStepGenerator(Generator):
    """A `Generator`: x_0 = D(sigma_init z, t_init, cond), z ~ N(0, I) of shape (b, *image_shape).

    `init_noise_to_signal` is sigma/alpha at the entry: 2.5 for SiD, the teacher's sigma_max for DMD and f-distill. Raises UserError where the
    denoiser cannot be entered there.
    """

    def __init__(self, denoiser: Denoiser, init_noise_to_signal: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.init_noise_to_signal, self.entry = init_noise_to_signal, denoiser.entry_point(init_noise_to_signal)
        self.image_shape, self.label_count, self.takes_text = denoiser.image_shape, denoiser.label_count, denoiser.takes_text

    def forward(self, z: Float[Tensor, "b ..."], cond: Condition) -> Float[Tensor, "b ..."]:
        t, scale = self.entry
        return self.denoiser(scale * z, z.new_full((len(z),), t), cond)

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        return self.denoiser.pixel_shape

    def encode(self, images: Tensor) -> Tensor:
        return self.denoiser.encode(images)

    def decode(self, x0: Tensor) -> Tensor:
        return self.denoiser.decode(x0)

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        return self.denoiser.encode_prompts(prompts)

    def other_parts(self) -> dict[str, nn.Module]:
        return self.denoiser.other_parts()

    def prompt_encoder_sha256(self) -> str:
        return self.denoiser.prompt_encoder_sha256()
