"""The teacher's many-step samples with the noise that they came from, drawn once and stored.

They replace real images in a run without data, so that the density ratio is that of teacher to student, and
they are the pairs of DMD's regression (Yin et al. 2024, section 3.3).
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor
from tqdm import tqdm

from distill.config.config_file import differences
from distill.config.errors import UserError
from distill.config.settings import Settings
from distill.data import InMemory
from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.sampling import balanced_labels, sample_teacher, seeded_noise
from distill.storage.files import new_file, read_mapping, write_json
from distill.storage.tensors import load_sealed_tensors, save_tensors, weights_sha256
from distill.training.distillation.settings import TeacherSamplesSettings
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
    if there are any, `label`, each whole or absent. Call `draw` before a sample is read.
    """

    def __init__(
        self,
        settings: TeacherSamplesSettings,
        source: Settings,
        teacher: Denoiser,
        prompts: EncodedPrompts | None = None,
    ) -> None:
        self.path, self.count, self.sampler = settings.path, settings.count, settings.sampler
        self.prompts = prompts
        self.image_shape, self.label_count = teacher.image_shape, teacher.label_count
        self.description = {
            "format": FORMAT,
            "count": settings.count,
            "first_seed": FIRST_SEED,
            "sampler": settings.sampler.model_dump(mode="json"),
            # without its path: the same teacher may have moved
            "teacher": source.model_dump(mode="json", exclude={"path", "attention"}),
            "teacher_sha256": weights_sha256(teacher),
        }
        if prompts is not None:
            words = "\n".join([prompts.encoder, *prompts.prompts])
            self.description["prompts_sha256"] = hashlib.sha256(words.encode()).hexdigest()
        self._refuse_other_samples()

    def draw(self, teacher: Denoiser) -> None:
        """Draw and store the shards that are missing, then hold all samples in memory."""
        shards = {
            self.path / f"{start:08d}.safetensors": range(start, min(start + SHARD, self.count))
            for start in range(0, self.count, SHARD)
        }
        absent = {path: rows for path, rows in shards.items() if not path.is_file()}
        try:
            if absent:
                write_json(self.path / INDEX, self.description)
            is_quiet = not sys.stderr.isatty()
            for path, rows in tqdm(absent.items(), "teacher samples", unit="shard", disable=is_quiet):
                self._draw_shard(teacher, path, rows)
        except OSError as error:
            raise UserError(
                f"teacher_samples.path: {self.path} cannot be written ({error.strerror})"
            ) from error
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

    def _draw_shard(self, teacher: Denoiser, path: Path, rows: range) -> None:
        seeds = [FIRST_SEED + row for row in rows]
        choices = self.label_count if self.prompts is None else len(self.prompts)
        label = balanced_labels(self.count, choices).label
        if label is not None:
            label = label[rows.start : rows.stop]
        x = sample_teacher(teacher, seeds, self._condition(label), self.sampler, decode=False)
        tensors = {"z": seeded_noise(seeds, self.image_shape), "x": x}
        with new_file(path) as partial:
            save_tensors(partial, tensors if label is None else {**tensors, "label": label}, sealed=True)

    def _refuse_other_samples(self) -> None:
        index = self.path / INDEX
        if not index.is_file():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise UserError(
                    f"teacher_samples.path: {self.path} is there and holds no samples; expected a new folder"
                )
            return
        for key, there, here in differences(read_mapping(index), self.description):
            raise UserError(
                f"teacher_samples.path: {self.path} holds other samples: {key} is {there!r} there "
                f"and {here!r} here; give another path"
            )
