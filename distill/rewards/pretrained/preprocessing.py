"""The preprocessing that published networks expect: resizing, a crop or a border, and a normalisation.

Networks are published with a preprocessing of image files. Without a gradient, images are therefore read in
bytes, as a file would hold them, and resized with Pillow's rounding, bit for bit. With a gradient, the same
filters run in floating point without rounding: the result is a differentiable function of the images, and
differs from the first by the rounding, about one of 255 levels. Both clip where Pillow does, so that an image
gains nothing and gets no gradient beyond [-1, 1].

Some networks' images were turned into floating point first and then resized by torch (`Resampler`), which
neither rounds nor clips its output, and has another filter without antialiasing. Its input is read and
clipped as above.

Rows are resized before columns, as in Pillow up to 12. Pillow 13 takes the columns first where the height
shrinks by more than twice as many pixels as the width does, which changes tall images by single levels.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from distill.config.errors import UserError, first_line
from distill.data.images import to_levels
from distill.diffusion.constants import constant

Filter = Literal["bicubic", "bilinear"]
Resampler = Literal["pillow", "torch", "torch_antialiased"]
"""The resizing of Pillow, on bytes, or of `torch.nn.functional.interpolate`, on floats, without or with
`antialias`."""
CUBIC: dict[Literal["pillow", "torch"], float] = {"pillow": -0.5, "torch": -0.75}
"""Parameter a of the bicubic filter (Keys 1981): Pillow's, and torch's with antialiasing; torch's without."""
RADIUS: dict[Filter, float] = {"bicubic": 2.0, "bilinear": 1.0}
"""Half the width of a filter, in pixels."""
FILTERS: dict[int, Filter] = {2: "bilinear", 3: "bicubic"}
"""Filters by Pillow's numbers."""
UNIT = 2**22
"""Pillow's weights are whole multiples of 1/UNIT."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
PROCESSORS = (
    "BitImageProcessor",
    "BlipImageProcessor",
    "CLIPImageProcessor",
    "ConvNextImageProcessor",
    "DeiTImageProcessor",
    "ViTImageProcessor",
)
"""Image processors of transformers that resize, crop and normalise, and do nothing else."""
WARPED_FROM = 384
"""Size in pixels from which on ConvNeXt's images are resized to a square instead of cropped."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resizes images, crops or pads them to `size` around the middle, and normalises them.

    `filter` is that of the resizing. `resize` is the new (height, width), or the new length of the `edge`,
    which keeps the proportions. An image that is then larger than `size`, (height, width), is cropped; a
    smaller one gets a black border. `rounds_middle` rounds the middle of a crop as torchvision does, not
    down. With torch's `resampler`, values may leave the images' range.
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
        """Preprocess images of 1 or 3 channels, in float32, or in float64 if they come in it."""
        if images.shape[1] not in (1, 3):
            raise UserError(f"rewards: images of {images.shape[1]} channels; expected 1 or 3")
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        exact = not (torch.is_grad_enabled() and images.requires_grad)
        with torch.autocast(images.device.type, enabled=False):
            x = images.to(dtype).expand(-1, 3, -1, -1)
            levels = to_levels(x) if exact else ((x + 1) * 127.5).clamp(0, 255)
            levels = levels.double()  # sums of whole numbers are exact in it on every device
            size = self._resized_size(*images.shape[2:])
            if self.resampler == "pillow":
                levels = resize_as_pillow(levels, size, self.filter, exact)
            else:
                levels = resize_as_torch(levels, size, self.filter, self.resampler == "torch_antialiased")
            mean = constant(self.mean, levels)[:, None, None]
            deviation = constant(self.deviation, levels)[:, None, None]
            return ((self._crop_or_pad(levels) / 255 - mean) / deviation).to(dtype)

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.resize, int):
            return self.resize
        if self.edge == "longer":
            scale = self.resize / max(height, width)
            return round(height * scale), round(width * scale)
        shorter = min(height, width)
        return int(self.resize * height / shorter), int(self.resize * width / shorter)

    def _crop_or_pad(self, levels: Tensor) -> Tensor:
        """Crop images where they are larger than `size`, and pad them with black where they are smaller."""
        for dim, target in zip((2, 3), self.size, strict=True):
            excess = levels.shape[dim] - target
            if excess > 0:
                start = round(excess / 2) if self.rounds_middle else excess // 2
                levels = levels.narrow(dim, start, target)
            else:
                before = -excess // 2
                after = -excess - before
                levels = F.pad(levels, (0, 0) * (3 - dim) + (before, after))
        return levels


def resize_as_pillow(
    levels: Float[Tensor, "*n h w"], size: tuple[int, int], kind: Filter, exact: bool
) -> Float[Tensor, "*n s t"]:
    """Resize levels in 0..255 to (height, width) `size` as Pillow does.

    Rows come first, then columns, and levels are clipped after each. With `exact` they are also rounded to
    whole levels after each, as Pillow does with bytes; the input must then be whole levels in float64.
    """
    for dim, target in ((-1, size[1]), (-2, size[0])):
        if levels.shape[dim] == target:
            continue
        weights = pillow_weights(levels.shape[dim], target, kind)
        if exact:
            weights = torch.trunc(weights * UNIT + 0.5 * weights.sign())
        levels = _resample(levels, weights, dim)
        if exact:
            levels = ((levels + UNIT // 2) / UNIT).floor()
        levels = levels.clamp(0, 255)
    return levels


def resize_as_torch(
    levels: Float[Tensor, "*n h w"], size: tuple[int, int], kind: Filter, antialias: bool
) -> Float[Tensor, "*n s t"]:
    """Resize to (height, width) `size` as `torch.nn.functional.interpolate` does with `align_corners` false.

    The result is neither rounded nor clipped. The sums are matrix products: the gradient of `interpolate`
    depends on the order in which a GPU adds, and theirs does not.
    """
    weights_of = pillow_weights if antialias else torch_weights
    for dim, target in ((-1, size[1]), (-2, size[0])):
        if levels.shape[dim] != target:
            weights = _on_device(weights_of, levels.shape[dim], target, kind, levels.dtype, levels.device)
            levels = _resample(levels, weights, dim)
    return levels


@functools.lru_cache(maxsize=64)
def _on_device(
    weights_of: Callable[[int, int, Filter], Tensor],
    length: int,
    size: int,
    kind: Filter,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return weights on a device, to which they are copied once: a copy would make the device wait."""
    with torch.inference_mode(False):
        return weights_of(length, size, kind).to(device, dtype)


def _resample(levels: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Sum the pixels along the last (-1) or the last but one (-2) axis with weights (new length, length)."""
    return levels @ weights.T if dim == -1 else weights @ levels


def torch_weights(length: int, size: int, kind: Filter) -> Float64[Tensor, "size length"]:
    """Return the weights of `length` pixels in each of `size` pixels when torch resizes without antialiasing.

    A new pixel is a sum of the nearest two or four pixels; the pixels at the edges repeat.
    """
    return torch.from_numpy(_torch_weights(length, size, kind))


@functools.lru_cache(maxsize=64)
def _torch_weights(length: int, size: int, kind: Filter) -> np.ndarray:
    radius = int(RADIUS[kind])
    weights = np.zeros((size, length))
    for pixel in range(size):
        centre = (pixel + 0.5) * length / size - 0.5
        taps = math.floor(centre) + np.arange(1 - radius, 1 + radius)
        values = _kernel(np.abs(taps - centre), kind, CUBIC["torch"])
        np.add.at(weights[pixel], taps.clip(0, length - 1), values)
    return weights


def pillow_weights(length: int, size: int, kind: Filter) -> Float64[Tensor, "size length"]:
    """Return the weights of `length` pixels in each of `size` pixels when Pillow resizes.

    The filter antialiases, and is cut off at the edges.
    """
    return torch.from_numpy(_pillow_weights(length, size, kind))


@functools.lru_cache(maxsize=64)
def _pillow_weights(length: int, size: int, kind: Filter) -> np.ndarray:
    # An array is cached, since a tensor made under `inference_mode` could not be used with a gradient later.
    scale = length / size
    stretch = max(scale, 1.0)
    radius = RADIUS[kind] * stretch
    weights = np.zeros((size, length))
    for pixel in range(size):
        centre = (pixel + 0.5) * scale
        first = max(int(centre - radius + 0.5), 0)
        last = min(int(centre + radius + 0.5), length)
        distances = np.abs((np.arange(first, last) - centre + 0.5) * (1 / stretch))
        row = _kernel(distances, kind, CUBIC["pillow"])
        weights[pixel, first:last] = row / np.cumsum(row)[-1]
    return weights


def _kernel(x: np.ndarray, kind: Filter, a: float) -> np.ndarray:
    """Evaluate a filter at distances x: the triangle, or Keys' cubic with parameter a."""
    if kind == "bilinear":
        return np.maximum(1 - x, 0)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def read_preprocessing(source: str, flag: str) -> Preprocessing:
    """Read the preprocessing of a published image processor.

    A processor that does more than a `Preprocessing` can is refused. `source` is a folder or a name on the
    hub, and `flag` the setting in messages.
    """
    processor, name = open_processor(source, flag, PROCESSORS)
    preprocessing = _from_processor(processor, name) if resizes_and_rescales(processor) else None
    if preprocessing is None:
        raise UserError(
            f"{flag}: the image processor of {source} is expected to resize "
            "by Pillow's bicubic or bilinear filter and rescale by 1/255"
        )
    return preprocessing


def open_processor(source: str, flag: str, known: Sequence[str]) -> tuple[Any, str]:
    """Open the Pillow version of a published image processor, and return its name, one of `known`."""
    import transformers
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        described, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError) as error:
        raise UserError(f"{flag}: {source} has no image processor ({first_line(error)})") from error
    published_name = str(described.get("image_processor_type") or described.get("feature_extractor_type"))
    name = published_name.removesuffix("Fast").removesuffix("Pil")
    name = name.replace("FeatureExtractor", "ImageProcessor")
    if name not in known:
        raise UserError(
            f"{flag}: the image processor {published_name} of {source} is unknown; "
            f"expected one of {', '.join(known)}"
        )
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)  # transformers 5 and 4
    return kind.from_dict(described), name


def resizes_and_rescales(processor: Any) -> bool:
    """Tell an image processor that resizes by a known filter and rescales bytes to [0, 1]."""
    if not processor.do_resize or not processor.do_rescale:
        return False
    return abs(processor.rescale_factor * 255 - 1) < 1e-6 and processor.resample in FILTERS


def _from_processor(processor: Any, name: str) -> Preprocessing | None:
    """Translate an image processor; None if the size of its output depends on the image."""
    given: Any = processor.size
    edge = given.get("shortest_edge")
    exact = (given.get("height"), given.get("width"))
    resize: int | tuple[int, int] = edge or exact
    crop = None
    if getattr(processor, "do_center_crop", False):
        crop = (processor.crop_size["height"], processor.crop_size["width"])
    if name == "ConvNextImageProcessor":
        crop = (edge, edge)
        resize = crop if edge >= WARPED_FROM else int(edge / processor.crop_pct)
    if crop is None and isinstance(resize, int):
        return None
    normalises = processor.do_normalize
    return Preprocessing(
        crop or exact,
        resize,
        filter=FILTERS[int(processor.resample)],
        mean=tuple(processor.image_mean) if normalises else (0.0, 0.0, 0.0),
        deviation=tuple(processor.image_std) if normalises else (1.0, 1.0, 1.0),
    )
