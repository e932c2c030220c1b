"""A diffusers pipeline around a network that diffusers does not have.

`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` opens an export with it: the export's
`model_index.json` names it, and its `pipeline.py` imports it.
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
    """A generator as a component of a pipeline, which moves, converts and opens it as any other component."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    @classmethod
    def from_pretrained(cls, folder: str, torch_dtype: torch.dtype | None = None, **settings: Any) -> Self:
        """Open the generator of the export that holds this component's `folder`.

        The folder itself holds code alone. `settings`, about how diffusers would read weights, are not used.
        """
        network = cls(load_generator(Path(folder).parent))
        return network if torch_dtype is None else nn.Module.to(network, torch_dtype)

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        """Make images (b, *pixel_shape), in [-1, 1] up to overshoot."""
        return self.generator.decode(self.generator(z, cond))


class OneStepPipeline(DiffusionPipeline):
    """Makes images with a student of one step or a few.

    `autoencoder` is that of a latent network, if the export bundles it.
    """

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
        """Make an image for each of `class_labels`, or `batch_size` images of all labels in turn.

        `num_inference_steps` may only be the number of steps that the student was trained for. `latents` is
        the noise, N(0, I), with the noises of all steps one after another along the channels; if it is not
        given, it is drawn from `generator`. `output_type` is "pil", or "np" (b, h, w, c) or "pt" (b, c, h, w)
        in [0, 1].
        """
        network = self.network
        student = network.generator
        if num_inference_steps not in (None, student.evaluations):
            raise ValueError(f"num_inference_steps is {num_inference_steps}; expected {student.evaluations}")
        label = self._choose_labels(class_labels, batch_size)
        count = batch_size if class_labels is None else len(label)
        shape = (count, *student.noise_shape)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=network.device, dtype=network.dtype)
        elif latents.shape != shape:
            raise ValueError(f"latents: of shape {tuple(latents.shape)}; expected {shape}")
        images = network(latents.to(network.device, network.dtype), Condition(label).to(network.device))
        output = (images.float() / 2 + 0.5).clamp(0, 1).cpu()
        if output_type != "pt":
            output = output.permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            output = self.numpy_to_pil(output)
        return ImagePipelineOutput(images=output) if return_dict else (output,)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the generator as an export again."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        export_generator(self.network.generator, folder)

    def _choose_labels(self, class_labels: int | Sequence[int] | None, count: int) -> Any:
        """Return the label of each image, (b,), or None for a network without labels."""
        known = self.network.generator.label_count
        if class_labels is None:
            return balanced_labels(count, known).label
        labels = [class_labels] if isinstance(class_labels, int) else list(class_labels)
        for label in labels:
            if not 0 <= label < known:
                expected = f"labels from 0 to {known - 1}" if known else "none"
                raise ValueError(f"class_labels: {label} is out of range; expected {expected}")
        return torch.tensor(labels)
