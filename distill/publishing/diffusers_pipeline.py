"""The diffusers pipeline of networks that diffusers does not have: `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.

An export names it in its `model_index.json`, and its `pipeline.py` imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from distill.diffusion.sampling import balanced_labels
from distill.networks.folder import load_generator
from distill.publishing.export import export_generator
from distill.types import Condition, Generator

if TYPE_CHECKING:
    from typing_extensions import Self


class ExportedNetwork(ModelMixin):
    """A one-step generator as a part of a pipeline, which moves it, converts it, and opens it from the pipeline's own folder."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    @classmethod
    def from_pretrained(cls, folder: str, torch_dtype: torch.dtype | None = None, **settings: Any) -> Self:
        """Open the generator around a folder of code; `settings` are about weights that diffusers reads itself. Raises UserError without one."""
        network = cls(load_generator(Path(folder).parent))
        return network if torch_dtype is None else nn.Module.to(network, torch_dtype)

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        """Images (b, *pixel_shape), in [-1, 1] up to overshoot."""
        return self.generator.decode(self.generator(z, cond))


class OneStepPipeline(DiffusionPipeline):
    """Images of a student of one step or a few; `autoencoder` is what the export carries of a network of latents."""

    _optional_components = ["autoencoder"]  # noqa: RUF012 - as diffusers declares it

    def __init__(self, network: ExportedNetwork, autoencoder: AutoencoderKL | None = None) -> None:
        super().__init__()
        self.register_modules(network=network, autoencoder=autoencoder)
        denoiser: Any = network.generator.denoiser
        if autoencoder is not None:
            denoiser.codec.use(autoencoder)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | None = None,
        batch_size: int = 1,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """An image for each of `class_labels`, or `batch_size` images of all labels in turn, in as many evaluations as the student learned to take.

        `latents` is the noise, N(0, I), that of each further step behind the channels of the one before; it is drawn from `generator` where it is not
        given. `output_type` is "pil", or in [0, 1] "np" (b, h, w, c) or "pt" (b, c, h, w). Raises ValueError for labels that the network does not
        have, noise of another shape, and another number of steps than the student's.
        """
        network, student = self.network, self.network.generator
        if num_inference_steps not in (None, student.evaluations):
            raise ValueError(f"num_inference_steps is {num_inference_steps}; expected {student.evaluations}")
        label = self._choose_labels(class_labels, batch_size)
        shape = (batch_size if class_labels is None else len(label), *student.noise_shape)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=network.device, dtype=network.dtype)
        elif latents.shape != shape:
            raise ValueError(f"latents: of shape {tuple(latents.shape)}; expected {shape}")
        images = network(latents.to(network.device, network.dtype), Condition(label).to(network.device))
        shown = (images.float() / 2 + 0.5).clamp(0, 1).cpu()
        if output_type != "pt":
            shown = shown.permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            shown = self.numpy_to_pil(shown)
        return ImagePipelineOutput(images=shown) if return_dict else (shown,)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write such a folder again."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        export_generator(self.network.generator, folder)

    def _choose_labels(self, class_labels: int | Sequence[int] | None, count: int) -> Any:
        """The label of each image, (b,), or None for a network without labels."""
        known = self.network.generator.label_count
        if class_labels is None:
            return balanced_labels(count, known).label
        labels = [class_labels] if isinstance(class_labels, int) else list(class_labels)
        for label in labels:
            if not 0 <= label < known:
                raise ValueError(
                    f"class_labels: {label} is out of range; expected {f'labels from 0 to {known - 1}' if known else 'none'}"
                )
        return torch.tensor(labels)
