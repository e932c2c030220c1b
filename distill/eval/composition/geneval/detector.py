"""GenEval's detector on transformers: Mask2Former (Cheng et al. 2022), run as mmdetection runs it.

GenEval was published with mmdetection's own weights of Mask2Former with Swin-S. transformers serves those of
the paper's authors. Images are prepared and outputs are read as mmdetection does it, which is not what
transformers' image processor does: the shorter side becomes 800 pixels, masks are compared at the size of the
image, and objects may overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.eval.composition.geneval.requirements import CLASSES
from distill.eval.composition.geneval.rules import Box, Detection
from distill.rewards.pretrained.weights import describe_config, read_pretrained
from distill.storage.tensors import weights_sha256

SHORTER_SIDE = 800
LONGER_SIDE = 1333
"""Maximum pixels of the longer side, which then decides the size instead."""
MULTIPLE = 32
"""Images are padded at the right and bottom to a multiple of so many pixels."""
MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)
MAX_CANDIDATES = 100
"""Pairs of a query and a class that are looked at, those of the highest class scores."""
ALIASES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "hair dryer": "hair drier",
}
"""GenEval's names of classes that weights name otherwise."""


class Mask2Former:
    """Finds objects by a `Mask2FormerForUniversalSegmentation` of COCO's 80 classes, in float32."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.identity: dict[str, object] = {
            "weights_sha256": weights_sha256(network),
            "config": describe_config(network.config),
        }

    @torch.inference_mode()
    def detect(self, image: UInt8[Tensor, "3 h w"], threshold: float) -> list[Detection]:
        """Return the objects whose score, that of the class times that of the mask, is above `threshold`."""
        device = next(self.network.parameters()).device
        pixels, (height, width) = prepare(image.to(device))
        output = self.network(pixel_values=pixels)
        scores = output.class_queries_logits[0].softmax(-1)[:, :-1]
        queries, classes = candidates(scores, threshold)
        found = []
        for query, label in zip(queries, classes, strict=True):
            logits = F.interpolate(
                output.masks_queries_logits[:, query : query + 1], pixels.shape[2:], mode="bilinear"
            )[:, :, :height, :width]
            logits = F.interpolate(logits, image.shape[1:], mode="bilinear")[0, 0]
            mask = logits > 0
            score = scores[query, label].item() * mask_score(logits)
            if score > threshold and mask.any():
                found.append(Detection(CLASSES[label], score, box_of(mask), mask.cpu()))
        return found


def candidates(scores: Float[Tensor, "queries classes"], threshold: float) -> tuple[list[int], list[int]]:
    """Return the queries and classes of the highest scores, those above `threshold` only.

    The score of a mask is at most 1, so none of the others could be above it.
    """
    flat = scores.flatten()
    values, places = flat.topk(min(MAX_CANDIDATES, len(flat)))
    kept = places[values > threshold].tolist()
    classes = scores.shape[1]
    return [place // classes for place in kept], [place % classes for place in kept]


def prepare(image: UInt8[Tensor, "3 h w"]) -> tuple[Float[Tensor, "1 3 s t"], tuple[int, int]]:
    """Resize, normalise and pad an image; return it with its height and width before it was padded.

    The resizing is bilinear without antialiasing, as OpenCV's, and does not round to whole levels as OpenCV's
    does.
    """
    height, width = image.shape[1:]
    scale = min(LONGER_SIDE / max(height, width), SHORTER_SIDE / min(height, width))
    size = (int(height * scale + 0.5), int(width * scale + 0.5))
    levels = F.interpolate(image[None].float(), size, mode="bilinear")
    mean = levels.new_tensor(MEAN)[:, None, None]
    deviation = levels.new_tensor(DEVIATION)[:, None, None]
    below = -size[0] % MULTIPLE
    right = -size[1] % MULTIPLE
    return F.pad((levels - mean) / deviation, (0, right, 0, below)), size


def mask_score(logits: Float[Tensor, "h w"]) -> float:
    """Compute the mean probability of the pixels of a mask."""
    inside = (logits > 0).float()
    return ((logits.sigmoid() * inside).sum() / (inside.sum() + 1e-6)).item()


def box_of(mask: Bool[Tensor, "h w"]) -> Box:
    """Return the smallest box that holds a mask that is not empty."""
    rows = mask.any(1).nonzero()
    columns = mask.any(0).nonzero()
    left, right = columns[0].item(), columns[-1].item() + 1
    top, bottom = rows[0].item(), rows[-1].item() + 1
    return (float(left), float(top), float(right), float(bottom))


def open_detector(source: str, device: torch.device) -> Mask2Former:
    """Open a detector, by folder or by name on the hub."""
    from transformers import Mask2FormerForUniversalSegmentation

    network: Any = read_pretrained(Mask2FormerForUniversalSegmentation, source, "--detector")
    return Mask2Former(network.eval().requires_grad_(False).to(device))


def check_classes(names: Sequence[str], source: str) -> None:
    """Refuse a detector of other classes than COCO's, or in another order."""
    if len(names) != len(CLASSES):
        raise UserError(
            f"--detector: {source} knows {len(names)} classes; expected COCO's {len(CLASSES)} of instances"
        )
    for name, expected in zip(names, CLASSES, strict=True):
        if ALIASES.get(name.lower(), name.lower()) != expected:
            raise UserError(
                f"--detector: {source} has the class '{name}'; expected '{expected}' in its place"
            )
