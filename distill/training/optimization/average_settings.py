"""Settings of the averages of weights that a run keeps."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from distill.config.settings import Settings

Decay = Annotated[float, Field(ge=0, lt=1)]
"""Decay of an average, per update."""


class HalfLife(Settings):
    """An average whose memory is given in images, as in EDM, so that it does not depend on the batch."""

    half_life_images: float = Field(gt=0)
    """Images after which a weight counts half as much in the average. EDM and SiD take 5e5 on CIFAR-10. A
    larger one averages over more of the run."""
    rampup: float | None = Field(0.05, gt=0)
    """Maximum of the half-life as a share of the images so far, so that the start is forgotten quickly: EDM's
    5 %. null has the full half-life from the first step."""

    def decay_at(self, updates: int, batch_size: int) -> float:
        """Return the decay of the update after so many, each of a batch of images."""
        half_life = self.half_life_images
        if self.rampup is not None:
            half_life = min(half_life, updates * batch_size * self.rampup)
        return float(0.5 ** (batch_size / max(half_life, 1e-8)))


def _kind(value: Any) -> str:
    """Return the tag of the form that a value has, so that a wrong one is compared with its own form."""
    if isinstance(value, (list, tuple)):
        return "(list)"
    return "(images)" if isinstance(value, (dict, HalfLife)) else "(decay)"


def _kind_of_one(value: Any) -> str:
    """Return the tag of the form of one average of several."""
    return "(images)" if isinstance(value, (dict, HalfLife)) else "(decay)"


Average = Annotated[
    Annotated[Decay, Tag("(decay)")] | Annotated[HalfLife, Tag("(images)")], Discriminator(_kind_of_one)
]
"""One average."""
Averages = Annotated[
    Annotated[Decay, Tag("(decay)")]
    | Annotated[HalfLife, Tag("(images)")]
    | Annotated[tuple[Average, ...], Field(min_length=1), Tag("(list)")],
    Discriminator(_kind),
]
"""One average or several."""


def averages_of(ema: float | HalfLife | tuple[float | HalfLife, ...]) -> tuple[float | HalfLife, ...]:
    """Return the averages that a setting names, as a tuple."""
    return ema if isinstance(ema, tuple) else (ema,)
