"""GenEval's colours: CLIP classifies the crop of an object, with the pixels around it in grey."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from distill.data.images import from_bytes
from distill.eval.composition.geneval.requirements import COLORS
from distill.eval.composition.geneval.rules import Detection
from distill.rewards.pretrained.clip import ImageEmbedding, PromptEmbedding
from distill.rewards.pretrained.preprocessing import Preprocessing
from distill.rewards.pretrained.tokens import PublishedTokens
from distill.rewards.pretrained.weights import open_pretrained, read_pretrained
from distill.storage.tensors import weights_sha256

TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
"""A colour's embedding is the mean of those of its prompts, each of unit length."""
BACKGROUND = 153
"""Level of the grey, #999, that replaces what is not the object."""
MAX_ASPECT = 32
"""Longer crops are cut around their middle: CLIP sees the middle square only, and resizing all would cost
memory. The cut moves the square by less than one of its pixels."""


class ClipColors:
    """Names colours by the nearest of ten prompts under a CLIP network, in float32.

    GenEval computes in mixed precision, and its images go through open_clip's preprocessing, as here.
    """

    def __init__(self, image: ImageEmbedding, text: PromptEmbedding) -> None:
        self.image = image
        self.text = text
        self.identity: dict[str, object] = {
            "image_sha256": weights_sha256(image),
            "text_sha256": weights_sha256(text),
            "reads": {**image.describe(), **text.describe()},
            "templates": list(TEMPLATES),
        }
        self._colors_of = functools.lru_cache(maxsize=None)(self._embed_colors)

    def name_colors(self, image: UInt8[Tensor, "3 h w"], objects: Sequence[Detection]) -> list[str]:
        """Return the name of each object's colour."""
        return [COLORS[int(self.cosines(image, one).argmax())] for one in objects]

    @torch.inference_mode()
    def cosines(self, image: UInt8[Tensor, "3 h w"], one: Detection) -> Float[Tensor, " colors"]:
        """Return the cosine of an object's embedding and that of each colour."""
        crop = crop_object(image, one)[None].to(self.text.projection.weight.device)
        return self._colors_of(one.name) @ self.image(from_bytes(crop))[0]

    def _embed_colors(self, name: str) -> Float[Tensor, "colors d"]:
        prompts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
        embeddings = self.text(prompts).unflatten(0, (len(COLORS), len(TEMPLATES)))
        return F.normalize(embeddings.mean(1), dim=1)


def crop_object(image: UInt8[Tensor, "3 h w"], one: Detection) -> UInt8[Tensor, "3 s t"]:
    """Cut out an object's box, with grey where its mask is not."""
    left, top, right, bottom = (round(edge) for edge in one.box)
    left, right = _cut(left, right, bottom - top)
    top, bottom = _cut(top, bottom, right - left)
    inside = one.mask[top:bottom, left:right].to(image.device)
    return torch.where(inside, image[:, top:bottom, left:right], BACKGROUND).to(torch.uint8)


def _cut(start: int, end: int, other: int) -> tuple[int, int]:
    """Cut the same length off both ends of a side that is more than `MAX_ASPECT` times the other."""
    excess = max((end - start - MAX_ASPECT * other) // 2, 0)
    return start + excess, end - excess


def open_colors(source: str, device: torch.device) -> ClipColors:
    """Open CLIP by folder or by name on the hub. Its image processor is not read: GenEval's is fixed."""
    from transformers import AutoTokenizer, CLIPModel

    clip = read_pretrained(CLIPModel, source, "--clip").eval().requires_grad_(False)
    tokens = PublishedTokens(open_pretrained(AutoTokenizer, source, "--clip"))
    side = clip.config.vision_config.image_size
    preprocessing = Preprocessing((side, side), side, rounds_middle=True)
    image = ImageEmbedding(clip, preprocessing).to(device)
    return ClipColors(image, PromptEmbedding(clip, tokens).to(device))
