"""Label agreement: does a classifier of the real training images see the label that a generated image was asked for?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jaxtyping import Float, Int64
from torch import Tensor

from distill.config.errors import UserError
from eval.features import checked

if TYPE_CHECKING:
    from sklearn.svm import SVC

MAX_IMAGES = 10_000
"""Images to learn from at most: the time of the fit grows with their square."""


@dataclasses.dataclass(frozen=True)
class LabelClassifier:
    """A support vector machine with a Gaussian kernel. Its own accuracy on held-out images belongs beside every number that it gives."""

    machine: SVC

    @classmethod
    def fit(cls, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> LabelClassifier:
        """Learn the labels of real images. Raises UserError where they are all the same."""
        from sklearn.svm import SVC

        if len(labels.unique()) < 2:
            raise UserError("label agreement: the training images all have one label; expected at least 2")
        rows = slice(None, None, -(-len(features) // MAX_IMAGES))
        # On the digits, cross-validation over the training images is flat, 0.988 to 0.990, for C from 1 to 100 and gamma from 0.028, which
        # "scale" gives there, to 0.13. "scale" also suits images of other sizes.
        return cls(SVC(C=5.0, gamma="scale").fit(checked(features)[rows].numpy(), labels[rows].numpy()))

    def agreement(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> float:
        """Share of images, in [0, 1], in which it sees the given labels."""
        return float(self.machine.score(checked(features).numpy(), labels.numpy()))
