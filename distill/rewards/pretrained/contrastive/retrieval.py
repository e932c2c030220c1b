"""Image-to-text retrieval: how often a network finds the caption of an image among others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from distill.data import Captioned
from distill.types import DataSource

AT_ONCE = 256
"""Images and captions in every batch that a network is given."""


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """How well the captions of images are found among the distinct first captions of all of them."""

    images: int
    captions: int
    recall_at_1: float
    """Share of the images whose caption has the highest score; by chance 1 / captions."""
    recall_at_5: float
    """Share of the images whose caption is among the five highest scores; by chance 5 / captions."""
    mean_rank: float
    """Mean place of the caption, 0 for the highest score and 1 for the lowest; by chance 0.5."""

    def line(self) -> str:
        """Return a line to print, with the values that a random choice has."""
        return (
            f"{self.images} images among {self.captions} captions: recall at 1 {self.recall_at_1:.4f} "
            f"(chance {1 / self.captions:.4f}), at 5 {self.recall_at_5:.4f} "
            f"(chance {min(5 / self.captions, 1):.4f}), mean rank {self.mean_rank:.4f} (chance 0.5)"
        )


def retrieval(scores: Float[Tensor, "n m"], own: Sequence[int]) -> Retrieval:
    """Measure how high each image's own caption, a column of `scores`, ranks among all of them.

    Columns of the same score count against the image, and so do scores that are no numbers.
    """
    count = scores.shape[1]
    highest = scores.gather(1, torch.tensor(own)[:, None])
    ranks = (~(scores < highest)).sum(1) - 1
    return Retrieval(
        len(scores),
        count,
        (ranks < 1).double().mean().item(),
        (ranks < 5).double().mean().item(),
        ranks.double().mean().item() / max(count - 1, 1),
    )


def measure(
    data: DataSource,
    embed_images: Callable[[Tensor], Tensor],
    embed_texts: Callable[[Sequence[str]], Tensor],
) -> Retrieval:
    """Measure the retrieval of the first captions of a captioned source. The embeddings are unit vectors."""
    assert isinstance(data, Captioned)
    firsts = [captions[0] for captions in data.captions.of_images]
    distinct = list(dict.fromkeys(firsts))
    place = {caption: position for position, caption in enumerate(distinct)}
    with torch.inference_mode():
        rows = [range(start, min(start + AT_ONCE, len(data))) for start in range(0, len(data), AT_ONCE)]
        images = torch.cat([embed_images(torch.stack([data[row][0] for row in block])) for block in rows])
        starts = range(0, len(distinct), AT_ONCE)
        texts = torch.cat([embed_texts(distinct[start : start + AT_ONCE]) for start in starts])
        return retrieval(images @ texts.T, [place[caption] for caption in firsts])
