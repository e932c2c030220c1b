"""Conditions of images, and pairs of noise and image under a condition."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from distill.types.device import to_device
from distill.types.schedule import expand_like


@dataclasses.dataclass(frozen=True)
class Text:
    """Encoded prompts, as tensors by name.

    The names are `tokens` (b, n, width), `pooled` (b, width) and `mask` (b, n), 0 for padding; those of a
    second encoder end in `_2`.
    """

    given: dict[str, Tensor]
    unconditional: dict[str, Tensor]
    """One row, (1, ...), that stands for no prompt; a tensor that is absent here is the same without a
    prompt."""
    prompts: tuple[str, ...] = ()
    """The prompts themselves, "" for none, for rewards that read them; empty if no reward does."""

    def __len__(self) -> int:
        return len(next(iter(self.given.values())))

    @property
    def device(self) -> torch.device:
        return next(iter(self.given.values())).device

    def __getitem__(self, rows: slice | Tensor) -> Text:
        prompts = self.prompts
        if prompts:
            prompts = (
                prompts[rows] if isinstance(rows, slice) else tuple(prompts[row] for row in rows.tolist())
            )
        return Text({name: value[rows] for name, value in self.given.items()}, self.unconditional, prompts)

    def to(self, device: torch.device | str) -> Text:
        given = {name: to_device(value, device) for name, value in self.given.items()}
        unconditional = {name: to_device(value, device) for name, value in self.unconditional.items()}
        return Text(given, unconditional, self.prompts)

    def drop(self, rows: Bool[Tensor, " b"]) -> Text:
        """Remove the prompt in these rows."""
        replaced = {
            name: torch.where(expand_like(rows, value), value, self.given[name])
            for name, value in self.unconditional.items()
        }
        prompts = self.prompts
        if prompts:
            kept = zip(prompts, rows.tolist(), strict=True)
            prompts = tuple("" if dropped else prompt for prompt, dropped in kept)
        return Text({**self.given, **replaced}, self.unconditional, prompts)

    def as_unconditional(self) -> Text:
        """Return as many rows without a prompt. No tensor is read, for which a device would have to wait."""
        replaced = {name: value.expand_as(self.given[name]) for name, value in self.unconditional.items()}
        return Text({**self.given, **replaced}, self.unconditional, ("",) * len(self.prompts))

    def twice(self) -> Text:
        """Return these rows, and then the same rows again."""
        doubled = {name: torch.cat([value, value]) for name, value in self.given.items()}
        return Text(doubled, self.unconditional, self.prompts * 2)

    def with_unconditional(self) -> Text:
        """Return these rows, and then as many without a prompt."""
        other = self.as_unconditional()
        doubled = {name: torch.cat([value, other.given[name]]) for name, value in self.given.items()}
        return Text(doubled, self.unconditional, self.prompts + other.prompts)


@dataclasses.dataclass(frozen=True)
class Condition:
    """The condition of a batch: labels, or encoded prompts, or neither; and cameras for scenes."""

    label: Int64[Tensor, " b"] | None = None
    """Class indices in [0, label_count); -1, or None for a whole batch, means unconditional."""
    text: Text | None = None
    camera: Float[Tensor, "b 4"] | None = None
    """Camera of each image of a scene: azimuth, elevation, distance and field of view; angles in radians."""

    def as_unconditional(self) -> Condition:
        """Return the rows without label and prompt."""
        label = None if self.label is None else torch.full_like(self.label, -1)
        return Condition(label, None if self.text is None else self.text.as_unconditional(), self.camera)

    def with_unconditional(self) -> Condition:
        """Return the rows of this condition, and then as many unconditional ones.

        They are both sides of a guided prediction. Raises ValueError if there is no condition.
        """
        if self.label is None and self.text is None:
            raise ValueError("guidance: needs a condition; found none")
        return Condition(
            None if self.label is None else torch.cat([self.label, torch.full_like(self.label, -1)]),
            None if self.text is None else self.text.with_unconditional(),
            _twice(self.camera),
        )

    def twice(self) -> Condition:
        """Return the rows of this condition, and then the same rows again."""
        text = None if self.text is None else self.text.twice()
        return Condition(_twice(self.label), text, _twice(self.camera))

    def drop(self, rows: Bool[Tensor, " b"]) -> Condition:
        """Make these rows unconditional."""
        label = None if self.label is None else self.label.masked_fill(rows, -1)
        return Condition(label, None if self.text is None else self.text.drop(rows), self.camera)

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        return Condition(
            None if self.label is None else self.label[rows],
            None if self.text is None else self.text[rows],
            None if self.camera is None else self.camera[rows],
        )

    def to(self, device: torch.device | str) -> Condition:
        return Condition(
            None if self.label is None else to_device(self.label, device),
            None if self.text is None else self.text.to(device),
            None if self.camera is None else to_device(self.camera, device),
        )


def _twice(rows: Tensor | None) -> Tensor | None:
    """Return rows, and then the same rows again."""
    return None if rows is None else torch.cat([rows, rows])


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Unit noise z, (b, *image_shape), and the image x that the teacher's sampler makes of it."""

    z: Float[Tensor, "b ..."]
    cond: Condition
    x: Float[Tensor, "b ..."]

    def __getitem__(self, rows: slice | Tensor) -> Pairs:
        return Pairs(self.z[rows], self.cond[rows], self.x[rows])

    def to(self, device: torch.device | str) -> Pairs:
        return Pairs(to_device(self.z, device), self.cond.to(device), to_device(self.x, device))
