"""The head that LAION's aesthetic predictor and ImageReward share: linear layers without activations."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

WIDTHS = (1024, 128, 64, 16)


class ScoreHead(nn.Module):
    """Map features (b, d) to a score (b,).

    Weights have their published names, which number the dropouts of training too; they are identities here.
    """

    def __init__(self, features: int = 768, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.layers = nn.Sequential(
            nn.Linear(features, first),
            nn.Identity(),
            nn.Linear(first, second),
            nn.Identity(),
            nn.Linear(second, third),
            nn.Identity(),
            nn.Linear(third, fourth),
            nn.Linear(fourth, 1),
        )

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        return self.layers(features)[:, 0]
