"""Batches: everything random about a step, as a pure function of (seed, index).

A resumed run therefore repeats an uninterrupted one. Every process draws the whole batch and keeps its own
rows: a run does not depend on how its batches are split.
"""

from __future__ import annotations

import dataclasses
import enum
import operator
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distill.config.errors import UserError
from distill.data import Captioned
from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.random import open_uniform, seeded
from distill.diffusion.sampling import max_batch_size
from distill.training.settings import RunSettings
from distill.types import Condition, DataSource, ImageModel, Pairs


@runtime_checkable
class PairSource(Protocol):
    """A source of pairs of noise and the teacher's image, by their numbers (b,) in [0, len)."""

    def __len__(self) -> int: ...
    def pairs(self, rows: Tensor) -> Pairs: ...


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise for b samples: quantiles of the noise level, and the noise itself."""

    u: Tensor
    """Quantiles of the noise level, (b,), uniform in (0, 1)."""
    eps: Tensor
    """N(0, I), (b, *image_shape)."""

    def __getitem__(self, rows: slice) -> Noise:
        return Noise(self.u[rows], self.eps[rows])

    def to(self, device: torch.device) -> Noise:
        return Noise(self.u.to(device), self.eps.to(device))


class Purpose(enum.IntEnum):
    """Independent streams of random numbers within a batch.

    The numbers are part of every run: they never change.
    """

    NOISE = 0
    DATA = 1
    DROPOUT = 2
    PAIRS = 3
    PROMPT_DROPOUT = 4
    GENERATOR_STEPS = 5
    CROPS = 6
    GAN_NOISE = 7
    DISCRIMINATOR_NOISE = 8
    REAL_NOISE = 9
    CAPTIONS = 10


OWN_NOISE = {
    "gan_noise": Purpose.GAN_NOISE,
    "discriminator_noise": Purpose.DISCRIMINATOR_NOISE,
    "real_noise": Purpose.REAL_NOISE,
}
"""Fields of a batch that are drawn only if a run asks for them."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """One process's part of a batch of b samples."""

    z: Tensor
    """Noise of the generator, (b, *noise_shape), N(0, I); for fewer steps than the generator has, the noises
    of those alone."""
    cond: Condition
    u: Tensor
    """Quantiles of the noise level in the generator's update, (b,), uniform in (0, 1)."""
    eps: Tensor
    """Noise added to the samples in the generator's update, (b, *image_shape), N(0, I)."""
    u_fake: Tensor
    """Quantiles of the noise level in the updates of fake score and discriminator, (b,)."""
    eps_fake: Tensor
    """Noise added to the samples in those updates, (b, *image_shape)."""
    real: Tensor | None
    """Images of the data in [-1, 1], under the same conditions as the samples; None without data."""
    eps_real: Tensor
    """Noise added to `real`, (b, *image_shape)."""
    pairs: Pairs | None = None
    """b pairs of other noise and the teacher's image; None if no term needs them."""
    crop_positions: Tensor | None = None
    """Positions of each sample's crop, (b, 2), uniform in (0, 1), for terms that crop."""
    gan_noise: Noise | None = None
    """Noise for the discriminator's view of the samples in the generator's update; None for that of the
    scores."""
    discriminator_noise: Noise | None = None
    """Noise for the discriminator's view of the samples in its own update; None for that of the fake score.
    """
    real_noise: Noise | None = None
    """Noise for the discriminator's view of real images; None for `u_fake` and `eps_real`."""

    def __len__(self) -> int:
        return len(self.z)

    @property
    def noise(self) -> Noise:
        """Noise of the samples in the generator's update."""
        return Noise(self.u, self.eps)

    @property
    def fake_noise(self) -> Noise:
        """Noise of the samples in the updates of fake score and discriminator."""
        return Noise(self.u_fake, self.eps_fake)

    @property
    def noise_of_real(self) -> Noise:
        """Noise of the real images."""
        return self.real_noise or Noise(self.u_fake, self.eps_real)

    def split(self, size: int | None) -> list[Batch]:
        """Split into micro-batches of at most `size` samples; None keeps the batch whole."""
        size = size or len(self)
        rows = [slice(start, start + size) for start in range(0, len(self), size)]
        return [self._map(operator.itemgetter(part)) for part in rows]

    def to(self, device: torch.device) -> Batch:
        return self._map(operator.methodcaller("to", device))

    def _map(self, function: Callable[[Any], Any]) -> Batch:
        changed = {
            field.name: function(value)
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return dataclasses.replace(self, **changed)


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of a run by their number, on process `process` of `processes`."""

    image_shape: tuple[int, ...]
    label_count: int
    data: DataSource | None
    batch_size: int
    seed: int
    device: torch.device
    process: int = 0
    processes: int = 1
    workers: int = 0
    paired: PairSource | None = None
    prompts: EncodedPrompts | None = None
    evaluations: int = 1
    """Steps of the generator. Each batch takes a number of them, drawn uniformly, so that all are trained, as
    in DMD2."""
    own_noise: tuple[str, ...] = ()
    """Fields of `OWN_NOISE` to draw."""
    encode: Callable[[Tensor], Tensor] | None = None
    """Brings real images into the network's own space; None if the data are there already. With prompts, the
    labels of the data are the numbers of their prompts."""

    @classmethod
    def of(
        cls,
        config: RunSettings,
        network: ImageModel,
        data: DataSource | None,
        accelerator: Accelerator,
        paired: PairSource | None = None,
        prompts: EncodedPrompts | None = None,
        evaluations: int = 1,
        own_noise: tuple[str, ...] = (),
    ) -> Batches:
        """Return the batches of a run on this process."""
        if data is not None:
            check_data(data, network)
        if config.batch_size % accelerator.num_processes:
            raise UserError(
                f"batch_size: {config.batch_size} does not split over {accelerator.num_processes} processes"
            )
        in_pixels = data is not None and data.image_shape != network.image_shape
        return cls(
            network.image_shape,
            network.label_count,
            data,
            config.batch_size,
            config.seed,
            accelerator.device,
            accelerator.process_index,
            accelerator.num_processes,
            config.data_workers,
            paired,
            prompts,
            evaluations,
            own_noise,
            network.encode if in_pixels else None,
        )

    def starting_at(self, index: int) -> Iterator[Batch]:
        """Yield batches `index`, `index + 1`, ... without end."""
        if self.data is None:
            while True:
                yield self._draw(index, None, None)
                index += 1
        source = cast(Dataset[tuple[Tensor, int]], self.data)
        indices = _Indices(self, index, len(self.data))
        # Without a generator of its own the loader would take a number from the global one, which belongs to
        # dropout.
        own = torch.Generator()
        loader = DataLoader(source, batch_sampler=indices, num_workers=self.workers, generator=own)
        for images, labels in loader:
            yield self._draw(index, images, labels)
            index += 1

    @property
    def rows(self) -> slice:
        """This process's rows of the whole batch."""
        share = self.batch_size // self.processes
        return slice(self.process * share, (self.process + 1) * share)

    def random(self, index: int, purpose: Purpose) -> torch.Generator:
        """Return the random numbers of one batch for one purpose."""
        return seeded(self.seed, index, purpose)

    def _draw(self, index: int, real: Tensor | None, labels: Tensor | None) -> Batch:
        """Draw a batch. Real images are this process's rows already; everything else is drawn whole."""
        random = self.random(index, Purpose.NOISE)
        z = self._randn(random, self._draw_steps(index))
        eps, eps_fake, eps_real = (self._randn(random) for _ in range(3))
        u, u_fake = (open_uniform(self.batch_size, random)[self.rows] for _ in range(2))
        label = self._draw_label(index, random, labels)
        own = {name: self._draw_noise(index, OWN_NOISE[name]) for name in self.own_noise}
        batch = Batch(
            z,
            self._condition(index, label),
            u,
            eps,
            u_fake,
            eps_fake,
            self._encoded(real),
            eps_real,
            self._draw_pairs(index),
            self._draw_crops(index),
            **own,
        )
        return batch.to(self.device)

    def _randn(self, random: torch.Generator, steps: int = 1) -> Tensor:
        channels, *size = self.image_shape
        return torch.randn((self.batch_size, steps * channels, *size), generator=random)[self.rows]

    def _draw_steps(self, index: int) -> int:
        """Draw how many steps the generator takes in this batch."""
        random = self.random(index, Purpose.GENERATOR_STEPS)
        return 1 + int(torch.randint(self.evaluations, (), generator=random))

    def _draw_label(self, index: int, random: torch.Generator, labels: Tensor | None) -> Tensor | None:
        """Return labels, or numbers of prompts: those of the real images, else drawn uniformly."""
        if self.prompts is not None and labels is not None and isinstance(self.data, Captioned):
            u = open_uniform(self.batch_size, self.random(index, Purpose.CAPTIONS))
            labels = self.data.captions.draw(labels, u[self.rows])
        choices = self.label_count if self.prompts is None else len(self.prompts)
        if not choices:
            return None
        drawn = torch.randint(choices, (self.batch_size,), generator=random)[self.rows]
        return drawn if labels is None else labels

    @torch.no_grad()
    def _encoded(self, real: Tensor | None) -> Tensor | None:
        """Return real images in the network's own space."""
        if real is None or self.encode is None:
            return real
        parts = real.split(max_batch_size(tuple(real.shape[1:])))
        return torch.cat([self.encode(part.to(self.device)) for part in parts])

    def _draw_crops(self, index: int) -> Tensor:
        u = open_uniform(2 * self.batch_size, self.random(index, Purpose.CROPS))
        return u.reshape(self.batch_size, 2)[self.rows]

    def _draw_noise(self, index: int, purpose: Purpose) -> Noise:
        random = self.random(index, purpose)
        eps = self._randn(random)
        return Noise(open_uniform(self.batch_size, random)[self.rows], eps)

    def _condition(self, index: int, label: Tensor | None) -> Condition:
        if self.prompts is None or label is None:
            return Condition(label)
        u = torch.rand(self.batch_size, generator=self.random(index, Purpose.PROMPT_DROPOUT))
        return self.prompts(label).drop(u[self.rows] < self.prompts.dropout)

    def _draw_pairs(self, index: int) -> Pairs | None:
        if self.paired is None:
            return None
        random = self.random(index, Purpose.PAIRS)
        drawn = torch.randint(len(self.paired), (self.batch_size,), generator=random)
        return self.paired.pairs(drawn[self.rows])


def check_data(data: DataSource, network: ImageModel) -> None:
    """Raise UserError if a network cannot be trained on these data."""
    if data.image_shape not in (network.image_shape, network.pixel_shape):
        raise UserError(
            f"data: images of {data.image_shape}; expected {network.pixel_shape} as the network's"
        )
    if network.label_count not in (0, data.label_count):
        raise UserError(f"data: {data.label_count} labels; expected {network.label_count} as the network's")


class _Indices:
    """The data indices of this process's rows of batches `start`, `start + 1`, ..."""

    def __init__(self, batches: Batches, start: int, images: int) -> None:
        self.batches, self.start, self.images = batches, start, images

    def __iter__(self) -> Iterator[list[int]]:
        index = self.start
        while True:
            random = self.batches.random(index, Purpose.DATA)
            drawn = torch.randint(self.images, (self.batches.batch_size,), generator=random)
            yield drawn[self.batches.rows].tolist()
            index += 1
