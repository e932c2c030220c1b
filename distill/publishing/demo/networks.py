"""The networks that the page shows, a student and its teacher, and the timed images that they make."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from distill.config.errors import UserError
from distill.data.images import check_images, to_bytes
from distill.diffusion.samplers import Heun
from distill.publishing.demo.inputs import Inputs, default_count
from distill.publishing.run_sources import class_names, load_run_teacher, teacher_guidance
from distill.publishing.samples import (
    check_makes_images,
    choose_device,
    describe_images,
    list_images,
    make_images,
    open_generator,
    save_image,
)
from distill.publishing.scene.description import read_scene
from distill.storage.tensors import weights_sha256
from distill.types import Denoiser, Generator

Role = Literal["student", "teacher"]


@dataclasses.dataclass(frozen=True)
class Made:
    """Image files of one call of a network, and the time that the call took."""

    files: Sequence[Path]
    notes: Sequence[Mapping[str, Any]]
    """What the `Comment` of each file says."""
    seconds: float
    """From the drawing of the noise to the decoded images in the machine's memory. Neither the encoding of a
    prompt nor the writing of files counts."""
    evaluations: int
    """Network evaluations per image."""
    is_first: bool
    """True for the first call of a batch of this size, in which a device may still choose its kernels."""

    @property
    def seconds_per_image(self) -> float:
        return self.seconds / len(self.files)


class ShownNetwork:
    """An opened student or teacher of a run. It makes the images that `sample.py` makes."""

    def __init__(self, run: Path, role: Role, network: Generator | Denoiser, dtype: str = "float32") -> None:
        self.run = run
        self.role = role
        self.network = network
        self.dtype = dtype
        self.weights_sha256 = weights_sha256(network)
        self._sizes_seen: set[int] = set()
        self._calls = itertools.count()

    def make(self, inputs: Inputs, folder: Path, sampler: Heun | None = None) -> Made:
        """Make an image of each seed as a PNG file in a new folder in `folder`; a teacher takes a sampler.

        The pixels are those of `sample.py --n COUNT --seed FIRST` on the same device. The `Comment` of a file
        is what `sample.py` writes, and the hash of the network's weights.
        """
        cond, prompts = inputs.condition_for(self.network)
        start = time.perf_counter()
        images = make_images(self.network, inputs.seeds, cond, sampler, self.dtype)
        seconds = time.perf_counter() - start
        check_images(images, f"The {self.role}")
        origin = describe_images(self.network, self.run, sampler, self.dtype)
        records = list_images(inputs.seeds, cond, prompts)
        place = folder / f"{self.role}-{next(self._calls):06d}"
        place.mkdir(parents=True)
        notes = [
            {**origin, "file": _file_name(self.role, record), "weights_sha256": self.weights_sha256, **record}
            for record in records
        ]
        for pixels, note in zip(to_bytes(images), notes, strict=True):
            save_image(pixels, place / note["file"], note)
        is_first = len(images) not in self._sizes_seen
        self._sizes_seen.add(len(images))
        files = [place / note["file"] for note in notes]
        return Made(files, notes, seconds, origin["evaluations"], is_first)


@dataclasses.dataclass(frozen=True)
class ShownRun:
    """A run's networks and what the page says of them."""

    run: Path
    student: ShownNetwork
    teacher: ShownNetwork | None
    class_names: Sequence[str] = ()
    teacher_guidance: float | None = None
    """Guidance scale of the teacher in the beginning; None if the teacher cannot be guided."""
    notes: Sequence[str] = ()
    """Why the teacher or names of classes are missing, one sentence each."""


@dataclasses.dataclass(frozen=True)
class OpeningOptions:
    """How networks are opened: as the options of `sample.py` of these names say."""

    device: str = "auto"
    dtype: str = "float32"
    resolution: int | None = None


def open_run(run: Path, with_teacher: bool, options: OpeningOptions) -> ShownRun:
    """Open a run's student, and its teacher unless it cannot be opened, which a note says then."""
    if read_scene(run) is not None:
        raise UserError(
            f"--run {run}: is a scene in three dimensions, not a model of images; "
            f"expected python sample.py --run {run} --views 24, which shows it from all sides"
        )
    generator = open_generator(run, options.resolution, options.device)
    student = ShownNetwork(run, "student", generator, options.dtype)
    notes: list[str] = []
    teacher, guidance = None, None
    if with_teacher:
        try:
            network = _open_teacher(run, options)
            teacher = ShownNetwork(run, "teacher", network, options.dtype)
            guidance = _guidance(run, network)
        except UserError as error:
            notes.append(f"The teacher is not shown: {error}.")
    names: Sequence[str] = ()
    if generator.label_count:
        try:
            names = class_names(run)
        except UserError as error:
            notes.append(f"Classes have no names here: {error}.")
    return ShownRun(run, student, teacher, names, guidance, notes)


def warm_up(shown: ShownRun, folder: Path) -> None:
    """Make images with each network, so that the first time on the page is not that of a first call."""
    inputs = Inputs(range(default_count(shown.student.network)), "all", "a picture")
    shown.student.make(inputs, folder)
    if shown.teacher is not None:
        shown.teacher.make(inputs, folder, Heun(steps=2))


def _open_teacher(run: Path, options: OpeningOptions) -> Denoiser:
    network = check_makes_images(load_run_teacher(run, options.resolution), run)
    return network.to(choose_device(options.device))


def _guidance(run: Path, teacher: Denoiser) -> float | None:
    """Return a scale that suits a teacher: that of the student's loss for text, 1 for labels."""
    if not (teacher.label_count or teacher.takes_text):
        return None
    try:
        teacher.require_unconditional()
    except UserError:
        return None
    return teacher_guidance(run) if teacher.takes_text else 1.0


def _file_name(role: Role, record: Mapping[str, Any]) -> str:
    """Name a file by its network, seed and label: `student-seed-7-label-3.png`."""
    label = "" if record["label"] is None else f"-label-{record['label']}"
    return f"{role}-seed-{record['seed']}{label}.png"
