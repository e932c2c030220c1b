"""Features of images, which the metrics read: one file for each kind.

The file's name is the name in a protocol, and its function `load` opens the features.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from distill.config.errors import UserError, did_you_mean
from distill.data.images import check_images, to_bytes
from distill.storage.tensors import weights_sha256

AT_ONCE = 16
"""Images in every batch that a network is given.

The number never changes: the way in which a convolution is computed, and so its last digit, depends on it.
"""


class Extractor(nn.Module):
    """Maps prepared images (b, c, h, w), float32 in 0..255, to `{"features": (b, d)}`.

    A classifier whose classes a metric needs adds `"logits"` (b, k).
    """

    def forward(self, images: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        raise NotImplementedError

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the weights."""
        return weights_sha256(self)


class NormalisedNetwork(Extractor):
    """A network of pictures, which it sees as (image / 255 - mean) / deviation, by channel.

    It takes images (b, 3, `size`, `size`).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, network: nn.Module, size: int, mean: Sequence[float], deviation: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(deviation).view(3, 1, 1), persistent=False)

    def normalise(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        """Normalise images; refuse those of another size than the network's."""
        if images.shape[2:] != (self.size, self.size):
            raise UserError(
                f"the feature network is of {self.size}x{self.size} pixels; expected one of "
                f"{images.shape[2]}x{images.shape[3]}, as the protocol says"
            )
        return (images - self.mean) / self.deviation


class Function(Extractor):
    """Makes an extractor of a function from prepared images to (b, d).

    `name` stands for the weights in hashes, so a function that changes needs another name.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        super().__init__()
        self.function = function
        self.name = name

    def forward(self, images: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        return {"features": self.function(images)}

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()


def feature_names() -> list[str]:
    """Return the names of all features, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_extractor(name: str, weights: str | None = None) -> Extractor:
    """Open the features of this name.

    `weights` is their file or folder; without it, the weights are installed or downloaded.
    """
    known = feature_names()
    if name not in known:
        raise UserError(f"'{name}' is not in eval/features{did_you_mean(name, known)}")
    return importlib.import_module(f"distill.eval.features.{name}").load(weights).eval().requires_grad_(False)


@torch.inference_mode()
def features_of(extractor: Extractor, images: Float[Tensor, "n c h w"]) -> dict[str, Tensor]:
    """Compute the features of any number of prepared images, on the CPU. They do not depend on that number.

    A GPU computes convolutions in float32 here, not in TF32, which torch would choose and which has no more
    digits than float16.
    """
    device = device_of(extractor)
    parts: list[dict[str, Tensor]] = []
    with torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, deterministic=True, allow_tf32=False
    ):
        for block in images.split(AT_ONCE):
            filled = torch.cat([block, block.new_zeros(AT_ONCE - len(block), *block.shape[1:])])
            found = extractor(filled.to(device))
            parts.append({name: value[: len(block)].cpu() for name, value in found.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's weights, the CPU if it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def quantise(images: Float[Tensor, "n c h w"], origin: str = "images") -> UInt8[Tensor, "n c h w"]:
    """Convert [-1, 1] to 0..255, as an image file would hold it.

    Real and generated images all pass through here. Raises UserError, naming `origin`, for a value that is
    not finite: in a byte it could not be recognised.
    """
    check_images(images, origin)
    return to_bytes(images)


def checked(features: Tensor) -> Float64[Tensor, "n d"]:
    """Return the features in float64; refuse features that are not finite numbers, one row for each image."""
    if features.ndim != 2 or not features.is_floating_point():
        raise UserError(
            f"features: {features.dtype} of {tuple(features.shape)}; "
            "expected floating point of (images, dimensions)"
        )
    broken = ~features.isfinite().all(1)
    if broken.any():
        raise UserError(
            f"features: {int(broken.sum())} of {len(features)} rows are not finite, "
            f"first row {int(broken.int().argmax())}"
        )
    return features.double()
