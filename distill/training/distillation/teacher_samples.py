"""The teacher's many-step samples with the noise they came from, drawn once and stored.

They are the real images of a run without data, whose density ratio is then that of teacher to student, and the pairs of DMD's regression
(Yin et al. 2024, section 3.3).
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
"""Evaluations count their seeds from 0: a student is not to be trained on the noise that it will be judged by."""


class TeacherSamples:
    """A `DataSource` of the teacher's images, and `Pairs` of noise and image. Sample i is that of seed FIRST_SEED + i and label i % label_count.

    The folder holds `samples.json`, which says how they were drawn, and shards of `z`, `x` and, if there are any, `label`, each whole or absent.
    Raises UserError, before anything is written, where the folder holds something else. `draw` must be called before a sample is read.

    With `prompts` a label is the number of a prompt.
    """

    def __init__(
        self,
        settings: TeacherSamplesSettings,
        source: Settings,
        teacher: Denoiser,
        prompts: EncodedPrompts | None = None,
    ) -> None:
        self.path, self.count, self.sampler, self.prompts = (
            settings.path,
            settings.count,
            settings.sampler,
            prompts,
        )
        self.image_shape, self.label_count = teacher.image_shape, teacher.label_count
        self.description = {
            "format": FORMAT,
            "count": settings.count,
            "first_seed": FIRST_SEED,
            "sampler": settings.sampler.model_dump(mode="json"),
            "teacher": source.model_dump(
                mode="json", exclude={"path", "attention"}
            ),  # the same teacher may have moved
            "teacher_sha256": weights_sha256(teacher),
        }
        if prompts is not None:
            self.description["prompts_sha256"] = hashlib.sha256(
                "\n".join([prompts.encoder, *prompts.prompts]).encode()
            ).hexdigest()
        self._refuse_other_samples()

    def draw(self, teacher: Denoiser) -> None:
        """Draw and store the shards that are not there yet, then hold all samples in memory. Raises UserError where they cannot be stored."""
        starts = range(0, self.count, SHARD)
        shards = {
            self.path / f"{start:08d}.safetensors": range(start, min(start + SHARD, self.count))
            for start in starts
        }
        absent = {path: rows for path, rows in shards.items() if not path.is_file()}
        try:
            if absent:
                write_json(self.path / INDEX, self.description)
            for path, rows in tqdm(
                absent.items(), desc="teacher samples", unit="shard", disable=not sys.stderr.isatty()
            ):
                self._draw_shard(teacher, path, rows)
        except OSError as error:
            raise UserError(
                f"teacher_samples.path: {self.path} cannot be written ({error.strerror})"
            ) from error
        loaded = [load_sealed_tensors(path) for path in shards]
        stored = {name: torch.cat([shard[name] for shard in loaded]) for name in loaded[0]}
        self.stored = Pairs(stored["z"], Condition(stored.get("label")), stored["x"])

    def pairs(self, rows: Int64[Tensor, " b"]) -> Pairs:
        """The pairs of these numbers."""
        pairs = self.stored[rows]
        return dataclasses.replace(pairs, cond=self._condition(pairs.cond.label))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = self.stored.cond.label
        return self.stored.x[index], 0 if label is None else int(label[index])

    def _condition(self, label: Tensor | None) -> Condition:
        return Condition(label) if self.prompts is None or label is None else self.prompts(label)

    def _draw_shard(self, teacher: Denoiser, path: Path, rows: range) -> None:
        seeds = [FIRST_SEED + row for row in rows]
        label = balanced_labels(
            self.count, self.label_count if self.prompts is None else len(self.prompts)
        ).label
        label = None if label is None else label[rows.start : rows.stop]
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
                f"teacher_samples.path: {self.path} holds other samples: {key} is {there!r} there and {here!r} here; give another path"
            )
