"""CLIP's symmetric contrastive loss (Radford et al. 2021), without false negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from distill.config.errors import TrainingError


def contrastive_loss(
    logits: Float[Tensor, "b b"], excluded: Bool[Tensor, "b b"] | None = None
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of finding each image's caption and each caption's image.

    `logits[i, j]` is the scaled cosine of image i and caption j, whose pairs are on the diagonal. Entries
    that are `excluded` are left out of both softmaxes: they are neither positive nor negative. The diagonal
    must not be excluded.
    """
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def finite_loss(logits: Float[Tensor, "b b"], excluded: Bool[Tensor, "b b"], step: int) -> Float[Tensor, ""]:
    """Return the contrastive loss of a training step; a loss that is not finite ends training."""
    loss = contrastive_loss(logits, excluded)
    if not loss.isfinite():
        raise TrainingError(f"the loss of step {step + 1} is not finite; expected a smaller --learning-rate")
    return loss


def parts_of(caption: str) -> frozenset[str]:
    """Return the parts of a caption, which are separated by commas, in lower case."""
    return frozenset(part.strip().lower() for part in caption.split(","))


def false_negatives(texts: Sequence[str], of_images: Sequence[Sequence[str]]) -> Bool[Tensor, "b b"]:
    """Tell for image i and caption j, i != j, whether the caption is true of the image too.

    `texts[i]` is the caption drawn for image i, and `of_images[i]` holds all captions of that image. A
    caption is true of an image if each of its parts is a part of the image's captions. Images of the same
    caption, and equal captions, are therefore never negatives of each other.
    """
    asked = [parts_of(text) for text in texts]
    known = [parts.union(*map(parts_of, captions)) for parts, captions in zip(asked, of_images, strict=True)]
    place = {part: position for position, part in enumerate(sorted(frozenset().union(*known)))}
    holds = _table(known, place) @ _table(asked, place).T == torch.tensor([len(parts) for parts in asked])
    return holds.fill_diagonal_(False)


def _table(rows: Sequence[frozenset[str]], place: dict[str, int]) -> Float[Tensor, "b n"]:
    """Return 1 where a row has the part of a column, and 0 elsewhere."""
    table = torch.zeros(len(rows), len(place))
    for row, parts in enumerate(rows):
        table[row, [place[part] for part in parts]] = 1
    return table
