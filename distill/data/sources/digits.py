"""The UCI handwritten digits of scikit-learn: 1 797 scans of 8x8 pixels, ten classes, 17 grey levels.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
1998.
"""

from __future__ import annotations

from typing import Literal

from distill.data import DataSettings, InMemory

HELD_OUT = 360
"""Number of held-out images."""


class Settings(DataSettings):
    """8x8 grey digits that come with scikit-learn: 1 437 training and 360 held-out images.

    The split is fixed and has the same shares of the ten classes in both parts.
    """

    name: Literal["digits"] = "digits"

    @property
    def has_held_out(self) -> bool:
        return True

    def load(self, split: str = "train") -> InMemory:
        """Open the split `train` (1 437 images) or `held_out` (360)."""
        import numpy as np
        import torch
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        rows = train_test_split(
            np.arange(len(digits.target)), test_size=HELD_OUT, stratify=digits.target, random_state=0
        )
        chosen = dict(zip(("train", "held_out"), rows, strict=True))[split]
        images = torch.from_numpy(digits.images[chosen]).float().unsqueeze(1) / 8 - 1
        return InMemory(images, torch.from_numpy(digits.target[chosen]), label_count=10)
