"""The UCI handwritten digits: 1 797 scans of 8x8 pixels, ten classes, 17 grey levels.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
1998 (CC-BY 4.0), in the form in which scikit-learn has them; `benchmarks/digits_data.py` made `digits.npz`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from distill.data import DataSettings, InMemory

SHIPPED = Path(__file__).with_suffix(".npz")


class Settings(DataSettings):
    """8x8 grey digits that come with the package: 1 437 training and 360 held-out images.

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

        with np.load(SHIPPED) as file:
            images, labels = (torch.from_numpy(file[f"{split}_{name}"]) for name in ("images", "labels"))
        return InMemory(images.float().unsqueeze(1) / 8 - 1, labels.long(), label_count=10)
