"""Read the data of batches by their indices: from memory on the device, or ahead of time by a thread."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from distill.config.errors import UserError
from distill.types import DataSource, InMemorySource, Labelled, to_device

T = TypeVar("T")

DrawIndices = Callable[[int, torch.device], Tensor]
"""Returns the data indices of this process's rows of a batch by its number, (b,), on a device."""
MAX_ON_DEVICE = 2 << 30
"""Bytes of images in memory that are held on the training device; more stay in the host's memory."""


class LabelReader:
    """The labels of a source, whose images are not read."""

    def __init__(self, data: Labelled, device: torch.device) -> None:
        self.labels = torch.as_tensor(data.labels).to(device)

    def __call__(self, draw: DrawIndices, start: int) -> Iterator[tuple[None, Int64[Tensor, " b"]]]:
        """Yield the labels of batches `start`, `start + 1`, ... without end."""
        while True:
            yield None, self.labels[draw(start, self.labels.device)]
            start += 1


class MemoryReader:
    """Images and labels of a source in memory, indexed by whole batches where they are held.

    With `on_host` that is the host's memory, as for labels that the host reads.
    """

    def __init__(self, data: InMemorySource, device: torch.device, on_host: bool = False) -> None:
        self.device = device
        fits = data.nbytes <= MAX_ON_DEVICE and not on_host
        self.held_on = device if fits else torch.device("cpu")
        self.data = data.to(self.held_on)

    def __call__(self, draw: DrawIndices, start: int) -> Iterator[tuple[Tensor, Int64[Tensor, " b"]]]:
        """Yield images and labels of batches `start`, `start + 1`, ... without end."""
        while True:
            images, labels = self.data.batch(draw(start, self.held_on))
            yield to_device(images, self.device), labels
            start += 1


class FileReader:
    """Images and labels of any other source, read one batch ahead by a thread or `workers` processes."""

    def __init__(self, data: DataSource, workers: int, device: torch.device) -> None:
        self.data, self.workers, self.device = data, workers, device

    def __call__(self, draw: DrawIndices, start: int) -> Iterator[tuple[Tensor, Int64[Tensor, " b"]]]:
        """Yield images and labels of batches `start`, `start + 1`, ... without end."""
        # Without a generator of its own the loader would take a number from the global one, which belongs to
        # dropout.
        loader: DataLoader[Any] = DataLoader(
            cast(Dataset[Any], _ErrorsAsValues(self.data)),
            batch_sampler=_Indices(draw, start),
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=_leave_signals_to_the_run,
            generator=torch.Generator(),
            pin_memory=self.device.type == "cuda",
        )
        for read in one_ahead(iter(loader)):
            if isinstance(read, UserError):
                raise read
            images, labels = read
            yield to_device(images, self.device), labels


class _ErrorsAsValues:
    """The items of a source, or the error that one raises: a worker's exceptions lose their messages."""

    def __init__(self, data: DataSource) -> None:
        self.data = data

    def __getitem__(self, index: int) -> tuple[Tensor, int] | UserError:
        try:
            return self.data[index]
        except UserError as error:
            return error


def _collate(items: list[Any]) -> Any:
    for item in items:
        if isinstance(item, UserError):
            return item
    return default_collate(items)


def _leave_signals_to_the_run(worker: int) -> None:
    """Let a worker live on when its whole group is signalled: the run saves, then ends it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class _Indices:
    """The data indices of batches `start`, `start + 1`, ..."""

    def __init__(self, draw: DrawIndices, start: int) -> None:
        self.draw, self.start = draw, start

    def __iter__(self) -> Iterator[list[int]]:
        index = self.start
        while True:
            yield self.draw(index, torch.device("cpu")).tolist()
            index += 1


def one_ahead(values: Iterator[T]) -> Iterator[T]:
    """Yield values while a thread computes the following one. An error is raised where its value would be."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, values)
        while True:
            value = following.result()
            following = pool.submit(next, values)
            yield value


def read_images(data: DataSource, rows: Int64[Tensor, " n"]) -> Tensor:
    """Return the images of these numbers, (n, ...), where the source holds them."""
    if isinstance(data, InMemorySource):
        return data.batch(rows)[0]
    return torch.stack([data[row][0] for row in rows.tolist()])
