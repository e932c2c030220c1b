"""The teacher's many-step samples with the noise that they came from, drawn once and stored.

They replace real images in a run without data, so that the density ratio is that of teacher to student, and
they are the pairs of DMD's regression (Yin et al. 2024, section 3.3).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from distill.config.config_file import differences
from distill.config.errors import UserError, writing_to
from distill.config.progress import ProgressBar
from distill.config.settings import Settings
from distill.data import InMemory
from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.sampling import labels_of, sample_teacher, seeded_noise
from distill.storage.files import new_file, read_mapping, write_json
from distill.storage.tensors import load_sealed_tensors, save_tensors, weights_sha256
from distill.training.distillation.settings import TeacherSamplesSettings
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.processes import Processes
from distill.types import Condition, Denoiser, Pairs

FORMAT, INDEX = "distill-teacher-samples/1", "samples.json"
SHARD = 256
"""Samples in a file."""
FIRST_SEED = 2**32
"""Evaluations count their seeds from 0: a student must not train on the noise that it is evaluated with."""


class TeacherSamples:
    """A `DataSource` of the teacher's images, and a source of pairs of noise and image.

    Sample i has the seed FIRST_SEED + i and the label i % label_count; with `prompts` a label is the number
    of a prompt. The folder holds `samples.json`, which says how they were drawn, and shards of `z`, `x` and,
    if there are any, `label`, each whole or absent. Call `draw` on all processes before a sample is read.
    A teacher that is sharded comes with the hash of the whole one.
    """

    def __init__(
        self,
        settings: TeacherSamplesSettings,
        source: Settings,
        teacher: Denoiser,
        processes: Processes,
        prompts: EncodedPrompts | None = None,
        teacher_sha256: str | None = None,
    ) -> None:
        self.path, self.count, self.sampler = settings.path, settings.count, settings.sampler
        self.anchor = settings.anchor
        self.processes, self.prompts = processes, prompts
        self.image_shape, self.label_count = teacher.image_shape, teacher.label_count
        self.description = {
            "format": FORMAT,
            "count": settings.count,
            "first_seed": FIRST_SEED,
            "sampler": settings.sampler.model_dump(mode="json"),
            # without its path: the same teacher may have moved
            "teacher": source.model_dump(mode="json", exclude={"path", "config", "attention"}),
            "teacher_sha256": teacher_sha256 or weights_sha256(teacher),
        }
        if settings.anchor is not None:
            self.description["anchor"] = settings.anchor
        if prompts is not None:
            words = "\n".join([prompts.encoder, *prompts.prompts])
            self.description["prompts_sha256"] = hashlib.sha256(words.encode()).hexdigest()
        self._refuse_other_samples()

    def draw(self, teacher: Denoiser) -> None:
        """Draw and store the shards that are missing, then hold all samples in memory.

        Each process draws a shard at a time.
        """
        shards = {
            self.path / f"{start:08d}.safetensors": range(start, min(start + SHARD, self.count))
            for start in range(0, self.count, SHARD)
        }
        # The main process looks alone: a network drive may hide a new file from who looked for it before.
        found = [path for path in shards if path.is_file()] if self.processes.is_main else []
        found = self.processes.main_object(found)
        absent = [path for path in shards if path not in found]
        with self._storing():
            if absent and self.processes.is_main:
                write_json(self.path / INDEX, self.description)
        total, hidden = sum(len(shards[path]) for path in absent), not self.processes.is_main
        with ProgressBar("teacher samples", total, "samples", hidden=hidden, leave=True) as bar:
            for start in range(0, len(absent), self.processes.count):
                at_once = absent[start : start + self.processes.count]
                self._draw_at_once(teacher, {path: shards[path] for path in at_once})
                bar.update(sum(len(shards[path]) for path in at_once))
        with raised_by_all(self.processes):
            loaded = [load_sealed_tensors(path) for path in shards]
        stored = {name: torch.cat([shard[name] for shard in loaded]) for name in loaded[0]}
        self.stored = Pairs(stored["z"], Condition(stored.get("label")), stored["x"])

    def pairs(self, rows: Int64[Tensor, " b"]) -> Pairs:
        """Return the pairs of these numbers, (b,)."""
        pairs = self.stored[rows]
        return dataclasses.replace(pairs, cond=self._condition(pairs.cond.label))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = self.stored.cond.label
        return self.stored.x[index], 0 if label is None else int(label[index])

    @property
    def nbytes(self) -> int:
        return self.stored.x.nbytes

    def to(self, device: torch.device) -> InMemory:
        """Return its images and labels as a source on a device."""
        return InMemory(self.stored.x, self.stored.cond.label, self.label_count).to(device)

    def batch(self, indices: Int64[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        return self.to(self.stored.x.device).batch(indices)

    def _condition(self, label: Tensor | None) -> Condition:
        return Condition(label) if self.prompts is None or label is None else self.prompts(label)

    def _draw_at_once(self, teacher: Denoiser, shards: Mapping[Path, range]) -> None:
        """Draw and store one shard on each process, as far as there are any.

        Sharded networks compute on all processes at once. The processes without a shard then draw the last
        one too, and shorter shards are drawn as long as the longest.
        """
        is_sharded = self.processes.mesh is not None
        is_needed = self.processes.index < len(shards)
        path = list(shards)[min(self.processes.index, len(shards) - 1)]
        tensors = {}
        if is_needed or is_sharded:
            longest = max(len(rows) for rows in shards.values())
            tensors = self._drawn(teacher, shards[path], longest if is_sharded else len(shards[path]))
        with self._storing():
            if is_needed:
                with new_file(path) as partial:
                    save_tensors(partial, tensors, sealed=True)

    def _drawn(self, teacher: Denoiser, rows: Sequence[int], length: int) -> dict[str, Tensor]:
        """Return the samples of these numbers. The last one is drawn again and again until `length` are."""
        filled = [*rows, *[rows[-1]] * (length - len(rows))]
        choices = self.label_count if self.prompts is None else len(self.prompts)
        label = labels_of(filled, choices).label
        seeds = [FIRST_SEED + row for row in filled]
        x = sample_teacher(
            teacher, seeds, self._condition(label), self.sampler, decode=False, anchor=self.anchor
        )
        tensors = {"z": seeded_noise(seeds[: len(rows)], self.image_shape), "x": x[: len(rows)]}
        return tensors if label is None else {**tensors, "label": label[: len(rows)]}

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Let an error of one process that writes in this block end all of them with the same line."""
        with raised_by_all(self.processes), writing_to(f"teacher_samples.path: {self.path}"):
            yield

    def _refuse_other_samples(self) -> None:
        check_folder(self.path)
        index = self.path / INDEX
        if not index.is_file():
            return
        for key, there, here in differences(read_mapping(index), self.description):
            raise UserError(
                f"teacher_samples.path: {self.path} holds other samples: {key} is {there!r} there "
                f"and {here!r} here; give another path"
            )


def check_folder(path: Path) -> None:
    """Refuse a folder of samples that holds something else."""
    if (path / INDEX).is_file() or not path.exists():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise UserError(f"teacher_samples.path: {path} is there and holds no samples; expected a new folder")
