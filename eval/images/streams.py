"""Images one after another, as bytes, from files or from networks, however many there are and whatever their sizes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.image_files import ImageFiles
from distill.data.images import lossy_format, to_bytes
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import sample_generator, sample_teacher
from distill.networks.identity import describe_images_of
from distill.storage.tensors import weights_sha256
from distill.types import Condition, DataSource, Denoiser, Generator
from eval.metrics.subsets import evenly


@runtime_checkable
class ImageStream(Protocol):
    """Images by their rows. `describe` says what all depend on, and `stamp` what an image depends on besides, without its being decoded."""

    origin: str
    label_count: int

    def __len__(self) -> int: ...
    def describe(self) -> dict[str, Any]: ...
    def name(self, row: int) -> str: ...
    def stamp(self, row: int) -> str: ...
    def label(self, row: int) -> int: ...
    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]: ...


def prompts_sha256(prompts: Sequence[str]) -> str:
    """Hash of prompts in their order, whatever encodes them."""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()


class FileImages:
    """The images of a folder or an archive, by name, not turned by their EXIF, as clean-fid reads them. One that cannot be read is given as the
    UserError that says so.

    Raises UserError where there are no images at all.
    """

    def __init__(self, path: Path) -> None:
        self.files, self.origin = ImageFiles(path), str(path)
        self._lossy: int | None = None
        self.label_count, self.classes = self.files.label_count, self.files.classes

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
        """How many images a compression has changed; those that cannot be read do not count."""
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
    """The images of a data source. `identity` says which."""

    def __init__(self, source: DataSource, origin: str, identity: dict[str, Any]) -> None:
        self.source, self.origin, self.identity, self.label_count = (
            source,
            origin,
            identity,
            source.label_count,
        )
        self.rows: Sequence[int] = range(len(source))
        self.classes: tuple[str, ...] = getattr(source, "classes", ())

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, count: int) -> None:
        """Leave all but `count` images out, evenly chosen."""
        self.rows = evenly(len(self.source), count)

    def describe(self) -> dict[str, Any]:
        return {"kind": "data", **self.identity}

    def name(self, row: int) -> str:
        return f"image {self.rows[row]}"

    def stamp(self, row: int) -> str:
        image, label = self.source[self.rows[row]]
        return f"{label} {hashlib.sha256(image.numpy().tobytes()).hexdigest()}"

    def label(self, row: int) -> int:
        return self.source[self.rows[row]][1]

    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]:
        for row in rows:
            yield to_bytes(self.source[self.rows[row]][0][None])[0]


class NetworkImages:
    """`count` images of a network, row i from the seed first_seed + i alone, its label or prompt by turns.

    `sampler` makes it a teacher's, `path` says whose in messages. An image that is not finite is given as the UserError that says so.
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
        self.network, self.count, self.first_seed, self.sampler, self.prompts = (
            network,
            count,
            first_seed,
            sampler,
            prompts,
        )
        self.batch_size, self.label_count = batch_size, 0 if prompts else network.label_count
        self.origin = ("the student" if sampler is None else "the teacher") + (f" in {path}" if path else "")
        self.sha256, self.decisive = weights_sha256(network), describe_images_of(network)

    def __len__(self) -> int:
        return self.count

    def describe(self) -> dict[str, Any]:
        identity: dict[str, Any] = {
            "kind": "network",
            "weights_sha256": self.sha256,
            "first_seed": self.first_seed,
        }
        identity |= self.decisive
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

    def name(self, row: int) -> str:
        return f"the image of seed {self.first_seed + row}"

    def stamp(self, row: int) -> str:
        return str(self.first_seed + row)

    def label(self, row: int) -> int:
        return row % self.label_count

    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]:
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            for row, image in zip(batch, self._sample(batch), strict=True):
                if image.isfinite().all():
                    yield to_bytes(image[None])[0]
                else:
                    yield UserError(f"{self.origin}: {self.name(row)} has values that are not finite")

    def _sample(self, rows: Sequence[int]) -> Tensor:
        seeds, number = [self.first_seed + row for row in rows], torch.tensor(list(rows))
        if self.prompts is not None:
            cond = self.prompts(number % len(self.prompts))
        else:
            cond = Condition(number % self.label_count if self.label_count else None)
        if self.sampler is not None:
            return sample_teacher(self.network, seeds, cond, self.sampler, self.batch_size)  # type: ignore[arg-type]
        return sample_generator(self.network, seeds, cond, self.batch_size)  # type: ignore[arg-type]
