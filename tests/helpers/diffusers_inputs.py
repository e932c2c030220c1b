"""Tiny teachers of diffusers, and noise and conditions for them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.teachers.diffusers import Settings
from distill.types import Condition, Denoiser
from tests.helpers.diffusers_families import folder_of, size_of

PROMPTS = ["a cat", "xyz"]


class PipelineFolders:
    """Folders of tiny pipelines by family, each made when it is asked for first."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, family: str) -> Path:
        return folder_of(self.root, family)


def transformer(folders: PipelineFolders, family: str) -> DiffusersNetwork:
    """Open a teacher of 16x16 images, if its pipeline has a choice."""
    return Settings(path=str(folders[family]), **size_of(family)).load()


def noise(teacher: Denoiser, count: int = 2, seed: int = 0) -> Tensor:
    """Draw unit noise, (count, *teacher.image_shape)."""
    return torch.randn(count, *teacher.image_shape, generator=torch.Generator().manual_seed(seed))


def condition(teacher: Denoiser) -> Condition:
    """Make a condition for two images, as the teacher takes it."""
    if teacher.takes_text:
        return teacher.encode_prompts(PROMPTS)
    return Condition(torch.tensor([3, 1])) if teacher.label_count else Condition()
