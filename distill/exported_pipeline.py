"""The diffusers pipeline in the folder of a one-step generator: `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.

An export carries a copy of this file as `pipeline.py`. It needs the package `distill`, which has the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

import distill
from distill.sampling import balanced_labels
from distill.types import Condition


class OneStepPipeline(DiffusionPipeline):
    """Images of a student of one step or a few. The network is opened when it is first needed."""

    def __init__(self) -> None:
        super().__init__()
        self._network: Any = None

    @property
    def network(self) -> Any:
        """The generator, of the folder or the repository on the hub that this pipeline is from."""
        if self._network is None:
            source = self.config._name_or_path
            if not Path(source).is_dir():
                from huggingface_hub import snapshot_download

                source = snapshot_download(source)
            self._network = distill.load_generator(source)
        return self._network

    def to(self, *arguments: Any, **settings: Any) -> OneStepPipeline:
        """Move the network, as `torch.nn.Module.to` does."""
        self.network.to(*arguments, **settings)
        return self

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int] | None = None,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """An image for each of `class_labels`, or `batch_size` of all labels in turn, in as many evaluations as the student learned to take.

        `output_type` is "pil", "np" (b, h, w, c) or "pt" (b, c, h, w), the latter two in [0, 1]. Raises ValueError for labels that the network
        does not have, and for another number of steps than the student's.
        """
        network = self.network
        if num_inference_steps not in (None, network.evaluations):
            raise ValueError(f"num_inference_steps is {num_inference_steps}; expected {network.evaluations}")
        if class_labels is not None and not all(0 <= label < network.label_count for label in class_labels):
            raise ValueError(f"class_labels: expected numbers below {network.label_count}")
        parameter = next(network.parameters())
        cond = balanced_labels(batch_size, network.label_count) if class_labels is None else Condition(torch.tensor(class_labels))
        count = batch_size if class_labels is None else len(class_labels)
        z = randn_tensor((count, *network.noise_shape), generator=generator, device=parameter.device, dtype=parameter.dtype)
        images = (network.decode(network(z, cond.to(parameter.device))) / 2 + 0.5).clamp(0, 1).float().cpu()
        shown: Any = images
        if output_type != "pt":
            shown = images.permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            shown = self.numpy_to_pil(shown)
        return ImagePipelineOutput(images=shown) if return_dict else (shown,)
