"""The UCI handwritten digits that scikit-learn ships: 1 797 real 8x8 scans of ten classes, 17 grey levels.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from typing import Literal

from distill.data import DataSettings, InMemory

HELD_OUT = 360


class Settings(DataSettings):
    """Real 8x8 digits, scaled to [-1, 1]: a fixed stratified split of 1 437 training and 360 held-out images."""

    name: Literal["digits"] = "digits"

    @property
    def has_held_out(self) -> bool:
        """Always."""
        return True

    def load(self, split: str = "train") -> InMemory:
        """Open `train` (1 437 images) or `held_out` (360)."""
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
