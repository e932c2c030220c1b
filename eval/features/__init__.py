"""What the metrics look at: one file for each kind of features, whose name is its name in a protocol and whose `load` opens it."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from distill.config.errors import UserError, did_you_mean
from distill.data.images import check_images, to_bytes
from distill.storage.tensors import weights_sha256

AT_ONCE = 16
"""Images that a network is given at once, always: how a convolution is computed, and so its last digit, depends on their number."""


class Extractor(nn.Module):
    """Prepared images (b, c, h, w), float32 in 0..255, -> `{"features": (b, d)}` and, of a classifier that scores need, `"logits"` (b, k)."""

    def forward(self, images: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        raise NotImplementedError

    @property
    def sha256(self) -> str:
        """Hash of the weights."""
        return weights_sha256(self)


class Function(Extractor):
    """Any function from prepared images to (b, d) as an extractor; `name` stands for its weights, so a changed function needs a changed name."""

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        super().__init__()
        self.function, self.name = function, name

    def forward(self, images: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        return {"features": self.function(images)}

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()


def load_extractor(name: str, weights: str | None = None) -> Extractor:
    """Open the features of this name, from `weights` or where they usually are. Raises UserError where they are not there."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise UserError(f"'{name}' is not in eval/features{did_you_mean(name, known)}")
    return importlib.import_module(f"eval.features.{name}").load(weights).eval().requires_grad_(False)


@torch.inference_mode()
def features_of(extractor: Extractor, images: Float[Tensor, "n c h w"]) -> dict[str, Tensor]:
    """The features of any number of prepared images, on the CPU. They do not depend on that number.

    A GPU's convolutions are computed in float32 too, not in TF32, which has no more digits than float16 and which torch would take.
    """
    device = next(
        (tensor.device for tensor in (*extractor.parameters(), *extractor.buffers())), torch.device("cpu")
    )
    parts: list[dict[str, Tensor]] = []
    with torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, deterministic=True, allow_tf32=False
    ):
        for block in images.split(AT_ONCE):
            filled = torch.cat([block, block.new_zeros(AT_ONCE - len(block), *block.shape[1:])])
            parts.append(
                {name: value[: len(block)].cpu() for name, value in extractor(filled.to(device)).items()}
            )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def quantise(images: Float[Tensor, "n c h w"], origin: str = "images") -> UInt8[Tensor, "n c h w"]:
    """[-1, 1] to 0..255 as an image file would hold it. Real and generated images all pass here.

    Raises UserError, naming `origin`, where a value is not finite: a byte could not tell.
    """
    check_images(images, origin)
    return to_bytes(images)


def checked(features: Tensor) -> Float64[Tensor, "n d"]:
    """The features in float64. Raises UserError where they are not finite numbers, one row per image."""
    if features.ndim != 2 or not features.is_floating_point():
        raise UserError(
            f"features: {features.dtype} of {tuple(features.shape)}; expected floating point of (images, dimensions)"
        )
    broken = ~features.isfinite().all(1)
    if broken.any():
        raise UserError(
            f"features: {int(broken.sum())} of {len(features)} rows are not finite, first row {int(broken.int().argmax())}"
        )
    return features.double()
