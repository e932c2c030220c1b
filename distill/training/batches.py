"""Everything random about a step, drawn as a pure function of (seed, index), so that a resumed run repeats an uninterrupted one.

The whole batch is drawn on every process, which then keeps its own rows: the run does not depend on how the batch is split.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distill.config.errors import UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.random import open_uniform, seeded
from distill.diffusion.sampling import max_batch_size
from distill.training.settings import RunSettings
from distill.types import Condition, DataSource, ImageModel, Pairs


@runtime_checkable
class PairSource(Protocol):
    """Pairs of noise and the teacher's image, by their numbers (b,) in [0, len)."""

    def __len__(self) -> int: ...
    def pairs(self, rows: Tensor) -> Pairs: ...


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise of b samples: quantiles `u` of its level, (b,), uniform in (0, 1), and `eps`, (b, *image_shape), N(0, I)."""

    u: Tensor
    eps: Tensor

    def __getitem__(self, rows: slice) -> Noise:
        return Noise(self.u[rows], self.eps[rows])

    def to(self, device: torch.device) -> Noise:
        return Noise(self.u.to(device), self.eps.to(device))


OWN_NOISE = {"gan_noise": 7, "discriminator_noise": 8, "real_noise": 9}
"""Fields of a batch that are drawn only where a run asks for them, and the purpose of each one's random numbers."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """One process's part of a batch of b samples.

    `z`: noise of the generator, (b, *image_shape), N(0, I); where it takes several steps, one such noise after another along the first axis, for as
    many of them as count in this batch. `eps`: that of the noising, (b, *image_shape). `u`: quantiles of the noise level, (b,), uniform in (0, 1).
    `u_fake`, `eps_fake`: the same for the fake score's and discriminator's training; `eps_real` noises `real`, images of the data in [-1, 1]
    conditioned on `cond` like the student's samples, or None where there are no data. `pairs` are b pairs of other noise and the teacher's image, or
    None where no term needs them. `crop_positions`, (b, 2) uniform in (0, 1), say where a term looks that looks at a part of each sample. `gan_noise`,
    `discriminator_noise` and `real_noise` noise what the discriminator sees: the student's samples in the generator's update, the student's and the
    real ones in its own. They are None where it sees what the scores see.
    """

    z: Tensor
    cond: Condition
    u: Tensor
    eps: Tensor
    u_fake: Tensor
    eps_fake: Tensor
    real: Tensor | None
    eps_real: Tensor
    pairs: Pairs | None = None
    crop_positions: Tensor | None = None
    gan_noise: Noise | None = None
    discriminator_noise: Noise | None = None
    real_noise: Noise | None = None

    def __len__(self) -> int:
        return len(self.z)

    def split(self, size: int | None) -> list[Batch]:
        """Micro-batches of at most `size` samples."""
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
    """Batch number `index` of a run, for every index, on process `process` of `processes`."""

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
    """Most steps of the generator: each batch is of its images after a number of them, drawn evenly, as DMD2 trains on all."""
    own_noise: tuple[str, ...] = ()
    """Fields of `OWN_NOISE` to draw."""
    encode: Callable[[Tensor], Tensor] | None = None
    """Real images as the network has them; None where the source has them so already. With prompts, their labels are the prompts' numbers."""

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
        """The batches of a run. Raises UserError where the data do not fit the network, or the batch does not split over the processes."""
        shape, label_count = network.image_shape, network.label_count
        encode = None
        if data is not None and data.image_shape != shape:
            if data.image_shape != network.pixel_shape:
                raise UserError(
                    f"data: images of {data.image_shape}; expected {network.pixel_shape} as the network's"
                )
            encode = network.encode
        if data is not None and label_count not in (0, data.label_count):
            raise UserError(f"data: {data.label_count} labels; expected {label_count} as the network's")
        if config.batch_size % accelerator.num_processes:
            raise UserError(
                f"batch_size: {config.batch_size} does not split over {accelerator.num_processes} processes"
            )
        place = {
            "device": accelerator.device,
            "process": accelerator.process_index,
            "processes": accelerator.num_processes,
        }
        place |= {"workers": config.data_workers, "evaluations": evaluations, "own_noise": own_noise}
        return cls(
            shape,
            label_count,
            data,
            config.batch_size,
            config.seed,
            paired=paired,
            prompts=prompts,
            encode=encode,
            **place,
        )

    def starting_at(self, index: int) -> Iterator[Batch]:
        """Batches `index`, `index + 1`, ... without end."""
        if self.data is None:
            while True:
                yield self._draw(index, None, None)
                index += 1
        source = cast(Dataset[tuple[Tensor, int]], self.data)
        # A generator of its own: without one, a loader that starts takes a number from the global one, which is the dropout's.
        indices = _Indices(self, index, len(self.data))
        loader = DataLoader(
            source, batch_sampler=indices, num_workers=self.workers, generator=torch.Generator()
        )
        for images, labels in loader:
            yield self._draw(index, images, labels)
            index += 1

    @property
    def rows(self) -> slice:
        """This process's rows of the whole batch."""
        share = self.batch_size // self.processes
        return slice(self.process * share, (self.process + 1) * share)

    def random(self, index: int, purpose: int) -> torch.Generator:
        """The random numbers of one batch, apart for each purpose."""
        return seeded(self.seed, index, purpose)

    def _draw(self, index: int, real: Tensor | None, labels: Tensor | None) -> Batch:
        """Real images come as this process's rows already; everything else is drawn whole."""
        random, count = self.random(index, purpose=0), self.batch_size
        taken = 1 + int(torch.randint(self.evaluations, (), generator=self.random(index, purpose=5)))
        shapes = [(count, noises * self.image_shape[0], *self.image_shape[1:]) for noises in (taken, 1, 1, 1)]
        z, eps, eps_fake, eps_real = (torch.randn(shape, generator=random)[self.rows] for shape in shapes)
        u, u_fake = (open_uniform(count, random)[self.rows] for _ in range(2))
        captions = getattr(self.data, "captions", None) if self.prompts is not None else None
        if captions is not None and labels is not None:
            labels = captions.draw(labels, open_uniform(count, self.random(index, purpose=10))[self.rows])
        label, choices = None, self.label_count if self.prompts is None else len(self.prompts)
        if choices:
            drawn = torch.randint(choices, (count,), generator=random)[self.rows]
            label = drawn if labels is None else labels
        if real is not None and self.encode is not None:
            with torch.no_grad():
                real = torch.cat(
                    [
                        self.encode(some.to(self.device))
                        for some in real.split(max_batch_size(tuple(real.shape[1:])))
                    ]
                )
        crop_positions = open_uniform(2 * count, self.random(index, purpose=6)).reshape(count, 2)[self.rows]
        own = {name: self._draw_noise(index, OWN_NOISE[name]) for name in self.own_noise}
        cond, pairs = self._condition(index, label), self._draw_pairs(index)
        return Batch(z, cond, u, eps, u_fake, eps_fake, real, eps_real, pairs, crop_positions, **own).to(
            self.device
        )

    def _draw_noise(self, index: int, purpose: int) -> Noise:
        random, count = self.random(index, purpose), self.batch_size
        eps = torch.randn((count, *self.image_shape), generator=random)[self.rows]
        return Noise(open_uniform(count, random)[self.rows], eps)

    def _condition(self, index: int, label: Tensor | None) -> Condition:
        if self.prompts is None or label is None:
            return Condition(label)
        dropped = (
            torch.rand(self.batch_size, generator=self.random(index, purpose=4))[self.rows]
            < self.prompts.dropout
        )
        return self.prompts(label).drop(dropped)

    def _draw_pairs(self, index: int) -> Pairs | None:
        if self.paired is None:
            return None
        drawn = torch.randint(len(self.paired), (self.batch_size,), generator=self.random(index, purpose=3))
        return self.paired.pairs(drawn[self.rows])


class _Indices:
    """The data indices of this process's rows of batches `start`, `start + 1`, ..."""

    def __init__(self, batches: Batches, start: int, images: int) -> None:
        self.batches, self.start, self.images = batches, start, images

    def __iter__(self) -> Iterator[list[int]]:
        index = self.start
        while True:
            random = self.batches.random(index, purpose=1)
            drawn = torch.randint(self.images, (self.batches.batch_size,), generator=random)
            yield drawn[self.batches.rows].tolist()
            index += 1
