"""Draw the batches of a run by their number.

A resumed run repeats an uninterrupted one, since a batch is a pure function of the seed and its number. A
process draws the numbers of its own rows only, which do not depend on how a batch is split.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from distill.config.errors import UserError
from distill.data import Captioned, Captions
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.stored_inputs import LatentSource
from distill.diffusion.counter_random import CounterRandom
from distill.training.batches.batch import Batch, Noise
from distill.training.batches.latents import check_latents, encode_all, encode_parts, hold_latents
from distill.training.batches.purposes import OWN_NOISE, Purpose, noise_of_step
from distill.training.batches.reading import FileReader, LabelReader, MemoryReader
from distill.training.parallel.processes import Processes
from distill.training.settings import RunSettings
from distill.types import (
    Condition,
    DataSource,
    Generator,
    ImageModel,
    InMemorySource,
    Labelled,
    Pairs,
    to_device,
)


def check_split(batch_size: int, processes: int) -> None:
    """Raise UserError if processes cannot have equal parts of a batch."""
    if batch_size % processes:
        raise UserError(f"batch_size: {batch_size} does not split over {processes} processes")


@runtime_checkable
class PairSource(Protocol):
    """A source of pairs of noise and the teacher's image, by their numbers (b,) in [0, len)."""

    def __len__(self) -> int: ...
    def pairs(self, rows: Tensor) -> Pairs: ...


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
    noises_inputs: bool = False
    """Each sample takes one step of the generator, drawn uniformly, from its real image with noise."""
    noise_shape: tuple[int, ...] | None = None
    """Shape of the noise of one step of the generator; None for that of an image."""
    condition_of: Callable[[Tensor], Condition | None] | None = None
    """Returns the condition that belongs to the generator's noise; None if any condition does."""
    own_noise: tuple[str, ...] = ()
    """Fields of `OWN_NOISE` to draw."""
    encode: Callable[[Tensor], Tensor] | None = None
    """Brings real images into the network's own space; None if the data are there already. With prompts, the
    labels of the data are the numbers of their prompts."""
    shows_images: bool = True
    """False if the data's labels alone are needed: its images are not read then."""
    compiled: bool = False
    """Draw noise by a compiled kernel, of equal bits."""
    captions: Captions | None = None
    """Captions of the data, whose labels are the positions of their first ones."""
    first_step: int = 1
    """Least number of the generator's steps that a batch takes."""

    @classmethod
    def of(
        cls,
        config: RunSettings,
        network: ImageModel,
        data: DataSource | None,
        processes: Processes,
        paired: PairSource | None = None,
        prompts: EncodedPrompts | None = None,
        generator: Generator | None = None,
        own_noise: tuple[str, ...] = (),
        shows_images: bool = True,
        first_step: int = 1,
        noises_inputs: bool = False,
    ) -> Batches:
        """Return the batches of a run on this process."""
        if data is not None:
            check_data(data, network)
        check_split(config.batch_size, processes.count)
        captions = data.captions if isinstance(data, Captioned) else None
        in_pixels = data is not None and data.image_shape != network.image_shape
        if in_pixels and shows_images and isinstance(data, InMemorySource) and hold_latents(data, network):
            data, in_pixels = encode_all(data, network, processes), False
        return cls(
            network.image_shape,
            network.label_count,
            data,
            config.batch_size,
            config.seed,
            processes.device,
            processes.index,
            processes.count,
            config.data_workers,
            paired,
            prompts,
            1 if generator is None else generator.evaluations,
            noises_inputs,
            None if generator is None else generator.step_noise_shape,
            None if generator is None else generator.condition_of,
            own_noise,
            network.encode if in_pixels else None,
            shows_images,
            config.compile != "none",
            captions,
            first_step,
        )

    def starting_at(self, index: int) -> Iterator[Batch]:
        """Yield batches `index`, `index + 1`, ... without end."""
        for real, labels in self._read(index):
            yield self._draw(index, real, labels)
            index += 1

    def _read(self, start: int) -> Iterator[tuple[Tensor | None, Tensor | None]]:
        """Yield real images and labels of this process's rows, each None if there are none."""
        data = self.data
        if data is None or not (self.shows_images or self.label_count):
            while True:
                yield None, None
        if not self.shows_images and isinstance(data, Labelled) and data.label_count:
            yield from LabelReader(data, self.device)(self._data_indices, start)
        elif isinstance(data, InMemorySource):
            reader = MemoryReader(data, self.device, on_host=self.prompts is not None)
            yield from reader(self._data_indices, start)
        else:
            yield from FileReader(data, self.workers, self.device)(self._data_indices, start)

    def _data_indices(self, index: int, device: torch.device) -> Int64[Tensor, " b"]:
        size = 0 if self.data is None else len(self.data)
        decided = self._decided_label(index)
        if decided is None:
            return self._random(index).below(size, Purpose.DATA, self._samples(device))
        # Only stored samples are shown beside a generator that decides: sample i has the label i % choices.
        label = decided.to(device)
        count = (size - 1 - label) // self._choices + 1
        u = self._random(index).uniform((Purpose.DATA,), self._samples(device))[0, :, 0]
        return label + self._choices * (u * count).long()

    def _decided_label(self, index: int) -> Int64[Tensor, " b"] | None:
        """Return the label or the number of the prompt that the generator's noise decides, if it does."""
        if self.condition_of is None or not self._choices:
            return None
        decided = self.condition_of(self._draw_z(index))
        return None if decided is None else decided.label

    @property
    def _choices(self) -> int:
        """Number of labels, or of prompts."""
        return self.label_count if self.prompts is None else len(self.prompts)

    def _samples(self, device: torch.device) -> Int64[Tensor, " b"]:
        """Return the numbers of this process's samples in the whole batch."""
        share = self.batch_size // self.processes
        return torch.arange(self.process * share, (self.process + 1) * share, device=device)

    def _random(self, index: int) -> CounterRandom:
        """Return the random numbers of one batch."""
        return CounterRandom(self.seed, index, self.compiled)

    def _draw(self, index: int, real: Tensor | None, labels: Tensor | None) -> Batch:
        """Draw a batch. Real images and labels are this process's rows."""
        z, normal = self._draw_normal(index, real is not None)
        uniform = self._draw_uniform(index)

        def noise_for(level: Purpose, noise: Purpose) -> Noise:
            return Noise(uniform[level][:, 0], normal[noise])

        return Batch(
            z=z,
            cond=self._draw_condition(index, z, labels),
            u=uniform[Purpose.LEVEL][:, 0],
            eps=normal[Purpose.NOISE],
            u_fake=uniform[Purpose.FAKE_LEVEL][:, 0],
            eps_fake=normal[Purpose.FAKE_NOISE],
            real=self._encoded(real),
            eps_real=normal.get(Purpose.REAL_NOISE),
            step=self._draw_input_step(index),
            pairs=self._draw_pairs(index),
            crop_positions=uniform[Purpose.CROP],
            **{name: noise_for(*OWN_NOISE[name]) for name in self.own_noise},
        )

    def _draw_steps(self, index: int) -> int:
        """Draw how many steps the generator takes in this batch, the same on all processes."""
        if self.evaluations == 1 or self.noises_inputs:
            return 1
        choices = self.evaluations - self.first_step + 1
        if choices == 1:
            return self.evaluations
        return self.first_step + self._random(index).of_step(choices, Purpose.GENERATOR_STEPS)

    def _draw_input_step(self, index: int) -> Int64[Tensor, " b"] | None:
        """Draw the step that each sample takes from its real image."""
        if not self.noises_inputs:
            return None
        return self._random(index).below(self.evaluations, Purpose.INPUT_STEP, self._samples(self.device))

    def _draw_z(self, index: int) -> Tensor:
        """Draw the generator's noise, (b, *noise_shape)."""
        steps = [noise_of_step(step) for step in range(self._draw_steps(index))]
        return torch.cat(list(self._normal(index, steps, self.noise_shape or self.image_shape).values()), 1)

    def _draw_normal(self, index: int, has_real: bool) -> tuple[Tensor, dict[int, Tensor]]:
        """Draw the generator's noise, and noise of the images' shape by its purpose, together if they can."""
        purposes = [Purpose.NOISE, Purpose.FAKE_NOISE]
        if has_real:
            purposes.append(Purpose.REAL_NOISE)
        purposes += [noise for _, noise in (OWN_NOISE[name] for name in self.own_noise)]
        if self.noise_shape is not None and self.noise_shape != self.image_shape:
            return self._draw_z(index), self._normal(index, purposes, self.image_shape)
        steps = [noise_of_step(step) for step in range(self._draw_steps(index))]
        normal = self._normal(index, [*steps, *purposes], self.image_shape)
        return torch.cat([normal[step] for step in steps], 1), normal

    def _normal(self, index: int, purposes: Sequence[int], shape: tuple[int, ...]) -> dict[int, Tensor]:
        """Draw noise, (b, *shape), by its purpose."""
        drawn = self._random(index).normal(purposes, self._samples(self.device), math.prod(shape))
        return dict(zip(purposes, drawn.unflatten(2, shape).unbind(), strict=True))

    def _draw_uniform(self, index: int) -> dict[int, Tensor]:
        """Draw two uniform numbers for each sample, (b, 2), by their purpose."""
        purposes = [Purpose.LEVEL, Purpose.FAKE_LEVEL, Purpose.CROP]
        purposes += [level for level, _ in (OWN_NOISE[name] for name in self.own_noise)]
        drawn = self._random(index).uniform(purposes, self._samples(self.device), 2)
        return dict(zip(purposes, drawn.unbind(), strict=True))

    def _draw_label(self, index: int, labels: Tensor | None) -> Int64[Tensor, " b"] | None:
        """Return labels, or numbers of prompts: those of the real images, else drawn uniformly.

        Numbers of prompts are on the CPU, where prompts are read.
        """
        device = self.device if self.prompts is None else torch.device("cpu")
        if not self._choices:
            return None
        if labels is None:
            return self._random(index).below(self._choices, Purpose.LABEL, self._samples(device))
        labels = labels.to(device)
        if self.captions is not None:
            u = self._random(index).uniform((Purpose.CAPTION,), self._samples(device))
            labels = self.captions.draw(labels, u[0, :, 0])
        return labels

    @torch.no_grad()
    def _encoded(self, real: Tensor | None) -> Tensor | None:
        """Return real images in the network's own space."""
        if real is None or self.encode is None:
            return real
        return encode_parts(self.encode, real)

    def _draw_condition(self, index: int, z: Tensor, labels: Tensor | None) -> Condition:
        """Return the condition that belongs to the generator's noise, or one that is drawn."""
        decided = None if self.condition_of is None else self.condition_of(z)
        if decided is None or decided.label is None:
            return self._condition(index, self._draw_label(index, labels))
        if not self.label_count and self.prompts is None:
            return Condition(camera=decided.camera)
        label = decided.label if self.prompts is None else decided.label.cpu()
        return dataclasses.replace(self._condition(index, label), camera=decided.camera)

    def _condition(self, index: int, label: Tensor | None) -> Condition:
        if label is None:
            return Condition()
        if self.prompts is None:
            return Condition(to_device(label, self.device))
        u = self._random(index).uniform((Purpose.PROMPT_DROPOUT,), self._samples(label.device))
        return self.prompts(label).drop(u[0, :, 0] < self.prompts.dropout).to(self.device)

    def _draw_pairs(self, index: int) -> Pairs | None:
        if self.paired is None:
            return None
        rows = self._samples(torch.device("cpu"))
        drawn = self._random(index).below(len(self.paired), Purpose.PAIR, rows)
        return self.paired.pairs(drawn).to(self.device)


def check_data(data: DataSource, network: ImageModel) -> None:
    """Raise UserError if a network cannot be trained on these data."""
    if isinstance(data, LatentSource):
        check_latents(data, network)
    if data.image_shape not in (network.image_shape, network.pixel_shape):
        raise UserError(
            f"data: images of {data.image_shape}; expected {network.pixel_shape} as the network's"
        )
    if network.label_count not in (0, data.label_count):
        raise UserError(f"data: {data.label_count} labels; expected {network.label_count} as the network's")
    if isinstance(data, Captioned) and not network.takes_text:
        raise UserError(
            "data: has captions, and the network takes no text; expected a pipeline that takes text, or data "
            "without captions, such as image_folder, or emoji with condition: labels"
        )
