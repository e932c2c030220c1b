"""Streams of images in bytes, from files, data sources or networks."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.image_files import ImageFiles
from distill.data.images import lossy_format, to_bytes
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import max_batch_size, sample_generator, sample_teacher
from distill.eval.metrics.subsets import evenly
from distill.networks.identity import describe_images_of
from distill.storage.tensors import weights_sha256
from distill.types import Condition, DataSource, Denoiser, Generator

CHUNK = 16
"""Images of a data source that are held as floats at once."""
HELD_PROMPTS = 256
"""Maximum number of prompts that are encoded once and held; more are encoded batch by batch."""


@runtime_checkable
class ImageStream(Protocol):
    """Images by their rows, read in any order.

    `describe` says what all images depend on, and `stamp` what one image depends on apart from that; only a
    data source has to decode the image for it. `origin` names the stream in messages, `classes` the labels if
    folders name them, and `first_seed` is the seed of image 0 if images are made.
    """

    origin: str
    label_count: int
    classes: tuple[str, ...]

    @property
    def first_seed(self) -> int | None: ...

    def __len__(self) -> int: ...
    def describe(self) -> dict[str, Any]: ...
    def name(self, row: int) -> str: ...
    def stamp(self, row: int) -> str: ...
    def label(self, row: int) -> int: ...
    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]: ...


def prompts_sha256(prompts: Sequence[str]) -> str:
    """Hash prompts in their order, whatever encodes them."""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()


class FileImages:
    """The images of a folder or an archive, by name, not turned by their EXIF data, as clean-fid reads them.

    An image that cannot be read is given as the UserError that says so.
    """

    def __init__(self, path: Path) -> None:
        self.files = ImageFiles(path)
        self.origin = str(path)
        self.label_count = self.files.label_count
        self.classes = self.files.classes
        self.first_seed: int | None = None
        self._lossy: int | None = None

    def __len__(self) -> int:
        return len(self.files)

    def keep(self, count: int) -> None:
        """Leave all but `count` images out, evenly chosen."""
        self.files.keep(evenly(len(self.files), count))
        self._lossy = None

    def describe(self) -> dict[str, Any]:
        return {"kind": "files", "path": str(self.files.path.resolve()), "lossy": self.lossy}

    @property
    def lossy(self) -> int:
        """Count the images that a lossy format has changed; images that cannot be read do not count."""
        if self._lossy is None:
            self._lossy = sum(self._is_lossy(row) for row in range(len(self)))
        return self._lossy

    def _is_lossy(self, row: int) -> bool:
        try:
            return lossy_format(self.files.content(row)) is not None
        except UserError:
            return False

    def name(self, row: int) -> str:
        return self.files.names[row]

    def stamp(self, row: int) -> str:
        return self.files.stamp(row)

    def label(self, row: int) -> int:
        return self.files.labels[row]

    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]:
        for row in rows:
            try:
                yield self.files.pixels(row, upright=False)
            except UserError as error:
                yield error


class DataImages:
    """The images of a data source; `identity` says which source that is.

    An image that is not finite is given as the UserError that says so.
    """

    def __init__(self, source: DataSource, origin: str, identity: dict[str, Any]) -> None:
        self.source = source
        self.origin = origin
        self.identity = identity
        self.label_count = source.label_count
        self.classes: tuple[str, ...] = getattr(source, "classes", ())
        self.first_seed: int | None = None
        self.rows: Sequence[int] = range(len(source))
        self._labels: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.source.image_shape)

    def keep(self, count: int) -> None:
        """Leave all but `count` images out, evenly chosen."""
        self.rows = evenly(len(self.source), count)

    def describe(self) -> dict[str, Any]:
        return {"kind": "data", **self.identity}

    def name(self, row: int) -> str:
        return f"image {self.rows[row]}"

    def stamp(self, row: int) -> str:
        image, label = self._load(row)
        return f"{label} {hashlib.sha256(image.numpy().tobytes()).hexdigest()}"

    def label(self, row: int) -> int:
        place = self.rows[row]
        if place not in self._labels:
            self._load(row)
        return self._labels[place]

    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            images = torch.stack([self._load(row)[0] for row in chunk])
            yield from quantised(images, [f"{self.origin}: {self.name(row)}" for row in chunk])

    def _load(self, row: int) -> tuple[Tensor, int]:
        """Read an image and remember its label: some sources would have to decode the image for it again."""
        place = self.rows[row]
        image, label = self.source[place]
        self._labels[place] = label
        return image, label


class NetworkImages:
    """`count` images of a network, row i from the seed first_seed + i alone, with labels or prompts in turn.

    `sampler` is given for a teacher; `path` says in messages whose images they are. An image that is not
    finite is given as the UserError that says so. `seconds` is the time that sampling has taken so far.
    """

    def __init__(
        self,
        network: Generator | Denoiser,
        count: int,
        first_seed: int = 0,
        sampler: Heun | None = None,
        prompts: EncodedPrompts | None = None,
        batch_size: int = 256,
        path: Path | str = "",
    ) -> None:
        self.network = network
        self.count = count
        self.first_seed = first_seed
        self.sampler = sampler
        self.prompts = prompts
        self.batch_size = min(batch_size, max_batch_size(network.pixel_shape))
        self.label_count = 0 if prompts else network.label_count
        self.classes: tuple[str, ...] = ()
        self.origin = ("the student" if sampler is None else "the teacher") + (f" in {path}" if path else "")
        self.seconds = 0.0

    def __len__(self) -> int:
        return self.count

    @property
    def conditions(self) -> Int64[Tensor, " n"] | None:
        """Numbers of the images' prompts or labels, None if they have neither."""
        count = len(self.prompts) if self.prompts is not None else self.label_count
        return torch.arange(self.count) % count if count else None

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the network's weights."""
        return weights_sha256(self.network)

    @property
    def evaluations(self) -> int:
        """Network evaluations per image."""
        if self.sampler is not None:
            return self.sampler.evaluations
        assert isinstance(self.network, Generator)
        return self.network.evaluations

    def describe(self) -> dict[str, Any]:
        identity: dict[str, Any] = {
            "kind": "network",
            "weights_sha256": self.sha256,
            "first_seed": self.first_seed,
        }
        identity |= self._decisive
        if self.sampler is not None:
            identity |= {
                "evaluations": self.sampler.evaluations,
                "sampler": self.sampler.model_dump(mode="json"),
            }
        elif isinstance(self.network, Generator):
            identity |= {
                "evaluations": self.network.evaluations,
                "noise_to_signal": list(getattr(self.network, "noise_to_signal", ())),
            }
        if self.prompts is not None:
            identity |= {
                "prompts": len(self.prompts),
                "prompts_sha256": prompts_sha256(self.prompts.prompts),
                "encoder": self.prompts.encoder,
            }
        return identity

    @functools.cached_property
    def _decisive(self) -> dict[str, Any]:
        return describe_images_of(self.network)

    def name(self, row: int) -> str:
        return f"the image of seed {self.first_seed + row}"

    def stamp(self, row: int) -> str:
        return str(self.first_seed + row)

    def label(self, row: int) -> int:
        return row % self.label_count

    def warm_up(self) -> None:
        """Sample one batch for nothing, so that preparing memory, threads and kernels is not timed."""
        self._sample(range(min(self.batch_size, self.count)))
        self.seconds = 0.0

    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]:
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            yield from quantised(self._sample(batch), [f"{self.origin}: {self.name(row)}" for row in batch])

    def _sample(self, rows: Sequence[int]) -> Tensor:
        seeds = [self.first_seed + row for row in rows]
        cond = self._condition(torch.tensor(list(rows)))
        start = time.perf_counter()
        if isinstance(self.network, Generator):
            images = sample_generator(self.network, seeds, cond, self.batch_size)
        else:
            images = sample_teacher(self.network, seeds, cond, self.sampler, self.batch_size)
        self.seconds += time.perf_counter() - start
        return images

    def _condition(self, rows: Tensor) -> Condition:
        """Return the labels or the prompts of some rows."""
        if self.prompts is None:
            return Condition(rows % self.label_count if self.label_count else None)
        chosen = rows % len(self.prompts)
        return self.prompts(chosen) if self._encoded is None else self._encoded[chosen]

    @functools.cached_property
    def _encoded(self) -> Condition | None:
        """All prompts encoded, or None if there are too many to hold."""
        if self.prompts is None or len(self.prompts) > HELD_PROMPTS:
            return None
        return self.prompts.balanced(min(len(self.prompts), self.count))


def quantised(
    images: Float[Tensor, "n c h w"], names: Sequence[str]
) -> Iterator[UInt8[Tensor, "c h w"] | UserError]:
    """Quantise images in [-1, 1] to bytes; an image that is not finite becomes the error that says so."""
    finite = images.isfinite().flatten(1).all(1).tolist()
    for name, pixels, is_finite in zip(names, to_bytes(images), finite, strict=True):
        yield pixels if is_finite else UserError(f"{name} has values that are not finite")
