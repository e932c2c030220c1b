"""Images as published networks expect them: Pillow's resizing, a crop or a border, and a normalisation, on the images' own device.

Preparations are published for image files, so where no gradient is asked for images are read as a file would hold them, in bytes, and resized with
Pillow's rounding, bit for bit. Where one is asked for, the same filters run in floating point without rounding: the value is then a differentiable
function of the images, and differs from the other by what rounding explains, about one of 255 levels. Both clip where Pillow does, so an image
gains nothing, and gets no gradient, beyond [-1, 1].

Some networks' images were turned into floating point first and resized by torch then: neither rounded nor clipped after it, and with another filter
where nothing is smoothed (`Resampler`). What goes in is read and clipped as above.

Rows come before columns, as in every Pillow until 12. Pillow 13 takes the columns first where the height shrinks by more than twice as many pixels as
the width does, which moves single levels of tall images.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import to_levels
from distill.rewards.pretrained.weights import first_line

Filter = Literal["bicubic", "bilinear"]
Resampler = Literal["pillow", "torch", "torch_antialiased"]
"""What resizes: Pillow, bytes, or `torch.nn.functional.interpolate`, floating point, without or with `antialias`."""
CUBIC: dict[Literal["pillow", "torch"], float] = {"pillow": -0.5, "torch": -0.75}
"""Keys' a of the bicubic filter of Pillow, which is torch's with antialiasing too, and of torch's without."""
REACH: dict[Filter, float] = {"bicubic": 2.0, "bilinear": 1.0}
FILTERS: dict[int, Filter] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of them."""
UNIT = 2**22
"""Pillow's weights are whole multiples of 1/UNIT."""
CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PROCESSORS = (
    "BitImageProcessor",
    "CLIPImageProcessor",
    "ConvNextImageProcessor",
    "DeiTImageProcessor",
    "ViTImageProcessor",
)
"""Of transformers: those that resize, crop and normalise, and do nothing else."""
WARPED_FROM = 384
"""Size from which ConvNeXt's images are warped into a square instead of cropped."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resizes by Pillow's `filter`, crops or fills to `size` around the middle, and normalises.

    `resize` is (height, width), whatever the proportions, or the length that the `edge` gets, which keeps them. What is then larger than `size`,
    (height, width), is cropped; what is smaller gets a black border. `rounds_middle` rounds the middle of a crop as torchvision does, not down.
    `resampler` says what resizes: with torch's, values may lie outside of an image's range afterwards.
    """

    size: tuple[int, int]
    resize: int | tuple[int, int]
    edge: Literal["shorter", "longer"] = "shorter"
    filter: Filter = "bicubic"
    mean: tuple[float, ...] = CLIP_MEAN
    deviation: tuple[float, ...] = CLIP_DEVIATION
    rounds_middle: bool = False
    resampler: Resampler = "pillow"

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 s t"]:
        """Prepared images, in float32, or float64 where they come in it. Raises UserError where they are neither grey nor of three channels."""
        if images.shape[1] not in (1, 3):
            raise UserError(f"rewards: images of {images.shape[1]} channels; expected 1 or 3")
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        exact = not (torch.is_grad_enabled() and images.requires_grad)
        with torch.autocast(images.device.type, enabled=False):
            x = images.to(dtype).expand(-1, 3, -1, -1)
            levels = (
                to_levels(x) if exact else ((x + 1) * 127.5).clamp(0, 255)
            ).double()  # in which sums of whole numbers are exact everywhere
            size = self._resized_size(*images.shape[2:])
            if self.resampler == "pillow":
                levels = resized(levels, size, self.filter, exact)
            else:
                levels = resized_by_torch(levels, size, self.filter, self.resampler == "torch_antialiased")
            mean, deviation = (
                levels.new_tensor(values)[:, None, None] for values in (self.mean, self.deviation)
            )
            return ((self._framed(levels) / 255 - mean) / deviation).to(dtype)

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.resize, int):
            return self.resize
        if self.edge == "longer":
            scale = self.resize / max(height, width)
            return round(height * scale), round(width * scale)
        shorter = min(height, width)
        return int(self.resize * height / shorter), int(self.resize * width / shorter)

    def _framed(self, levels: Tensor) -> Tensor:
        """Cropped where larger than `size`, with a black border where smaller."""
        for dim, target in zip((2, 3), self.size, strict=True):
            spare = levels.shape[dim] - target
            if spare > 0:
                levels = levels.narrow(dim, round(spare / 2) if self.rounds_middle else spare // 2, target)
            else:
                before = -spare // 2
                border = (0, 0) * (3 - dim) + (before, -spare - before)
                levels = F.pad(levels, border)
        return levels


def resized(
    levels: Float[Tensor, "*n h w"], size: tuple[int, int], kind: Filter, exact: bool
) -> Float[Tensor, "*n s t"]:
    """Levels in 0..255 at (height, width) `size`: along the rows and then along the columns, clipped after each, as Pillow does.

    `exact` also rounds each to whole levels, as Pillow does with bytes; it expects whole levels in float64.
    """
    for dim, target in ((-1, size[1]), (-2, size[0])):
        if levels.shape[dim] != target:
            weights = pillow_weights(levels.shape[dim], target, kind)
            if exact:
                weights = torch.trunc(weights * UNIT + 0.5 * weights.sign())
            weights = weights.to(levels)
            levels = levels @ weights.T if dim == -1 else weights @ levels
            levels = (((levels + UNIT // 2) / UNIT).floor() if exact else levels).clamp(0, 255)
    return levels


def resized_by_torch(
    levels: Float[Tensor, "*n h w"], size: tuple[int, int], kind: Filter, antialias: bool
) -> Float[Tensor, "*n s t"]:
    """Values at (height, width) `size` as `torch.nn.functional.interpolate` has them, `align_corners` false: neither rounded nor clipped.

    The sums are matrix products, whose gradient does not depend on the order in which a GPU adds, as that of `interpolate` does.
    """
    for dim, target in ((-1, size[1]), (-2, size[0])):
        if levels.shape[dim] != target:
            weights = (
                pillow_weights(levels.shape[dim], target, kind)
                if antialias
                else torch_weights(levels.shape[dim], target, kind)
            )
            weights = weights.to(levels)
            levels = levels @ weights.T if dim == -1 else weights @ levels
    return levels


def torch_weights(length: int, size: int, kind: Filter) -> Float64[Tensor, "size length"]:
    """What each of `length` pixels contributes to each of `size` in torch without antialiasing: the nearest two or four, edges repeated."""
    return torch.from_numpy(_torch_weights(length, size, kind))


@functools.lru_cache(maxsize=64)
def _torch_weights(length: int, size: int, kind: Filter) -> np.ndarray:
    reach = int(REACH[kind])
    weights = np.zeros((size, length))
    for place in range(size):
        centre = (place + 0.5) * length / size - 0.5
        taps = math.floor(centre) + np.arange(1 - reach, 1 + reach)
        np.add.at(
            weights[place], taps.clip(0, length - 1), _kernel(np.abs(taps - centre), kind, CUBIC["torch"])
        )
    return weights


def pillow_weights(length: int, size: int, kind: Filter) -> Float64[Tensor, "size length"]:
    """What each of `length` pixels contributes to each of `size` when Pillow resizes: an antialiasing filter, edges left out."""
    return torch.from_numpy(_weights(length, size, kind))


@functools.lru_cache(maxsize=64)
def _weights(length: int, size: int, kind: Filter) -> np.ndarray:
    """As an array: a tensor made under `inference_mode` could not be used with a gradient later."""
    scale = length / size
    stretch = max(scale, 1.0)
    reach = REACH[kind] * stretch
    weights = np.zeros((size, length))
    for place in range(size):
        centre = (place + 0.5) * scale
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), length)
        row = _kernel(np.abs((np.arange(first, last) - centre + 0.5) * (1 / stretch)), kind, CUBIC["pillow"])
        weights[place, first:last] = row / np.cumsum(row)[-1]
    return weights


def _kernel(x: np.ndarray, kind: Filter, a: float) -> np.ndarray:
    """Of distances: the triangle, or Keys' cubic with this a."""
    if kind == "bilinear":
        return np.maximum(1 - x, 0)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def read_preparation(source: str, flag: str) -> Preprocessing:
    """The preparation that a published image processor stands for; `source` is a folder or a name on the hub.

    Raises UserError, naming the flag, where there is none, or one that does more than a `Preprocessing` can.
    """
    import transformers
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        described, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError) as error:
        raise UserError(f"{flag}: {source} has no image processor ({first_line(error)})") from error
    named = str(described.get("image_processor_type") or described.get("feature_extractor_type"))
    name = named.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if name not in PROCESSORS:
        raise UserError(
            f"{flag}: the image processor {named} of {source} is unknown; expected one of {', '.join(PROCESSORS)}"
        )
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)  # transformers 5 and 4
    processor = kind.from_dict(described)
    plain = (
        processor.do_resize
        and processor.do_rescale
        and abs(processor.rescale_factor * 255 - 1) < 1e-6
        and processor.resample in FILTERS
    )
    preparation = _of_processor(processor, name) if plain else None
    if preparation is None:
        raise UserError(
            f"{flag}: the image processor of {source} is expected to resize by Pillow's bicubic or bilinear filter and rescale by 1/255"
        )
    return preparation


def _of_processor(processor: Any, name: str) -> Preprocessing | None:
    """None where the size of what comes out depends on what comes in."""
    given: Any = processor.size
    edge, exact = given.get("shortest_edge"), (given.get("height"), given.get("width"))
    crop = (
        (processor.crop_size["height"], processor.crop_size["width"])
        if getattr(processor, "do_center_crop", False)
        else None
    )
    resize: int | tuple[int, int] = edge or exact
    if name == "ConvNextImageProcessor":
        crop = (edge, edge)
        resize = crop if edge >= WARPED_FROM else int(edge / processor.crop_pct)
    if crop is None and isinstance(resize, int):
        return None
    mean, deviation = (
        (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    )
    return Preprocessing(
        crop or exact,
        resize,
        filter=FILTERS[int(processor.resample)],
        mean=tuple(mean),
        deviation=tuple(deviation),
    )
