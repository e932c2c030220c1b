"""Checks of a distillation before its weights are read: all that its files tell without them."""

from __future__ import annotations

import torch

from distill.networks.folder import read_description, resolve_folder
from distill.training.batches.batches import check_data
from distill.training.batches.previews import check_previews
from distill.training.distillation.build import build_networks, check_prompts
from distill.training.distillation.teacher_samples import check_folder
from distill.training.settings import DistillRun
from distill.types import DataSource, Denoiser

META = torch.device("meta")


def check_inputs(config: DistillRun) -> None:
    """Refuse images, prompts and folders that a run cannot use, and what its teacher cannot do.

    A teacher that only its weights describe is checked when it is opened.
    """
    if config.generator.init_from is not None:
        read_description(resolve_folder(config.generator.init_from), "generator")
    if config.teacher_samples is not None:
        check_folder(config.teacher_samples.path)
    data = None if config.data is None else config.data.load("train")
    if config.prompts is not None:
        config.prompts.load(data)
    teacher = config.teacher.known_before_loading()
    if teacher is not None:
        _check_teacher(config, teacher.eval().requires_grad_(False), data)


def _check_teacher(config: DistillRun, teacher: Denoiser, data: DataSource | None) -> None:
    """Refuse data, prompts and networks that do not go with a teacher, which is on the meta device."""
    check_prompts(config, teacher)
    check_previews(config.preview, teacher)
    trains_on_data = config.real_source == "data" or config.compares_with_data
    if config.data is not None and data is not None and trains_on_data and not config.data.holds_latents:
        check_data(data, teacher)  # of latents the autoencoder's weights are compared, later
    start = config.generator.model_copy(update={"init_from": None})
    build_networks(config.model_copy(update={"generator": start}), teacher, META)
