"""Runs of students for the page of `python -m distill demo`: of classes, and of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.networks.few_step_generator import FewStepGenerator
from distill.publishing.demo.networks import OpeningOptions, ShownRun, open_run
from distill.teachers.diffusers import Settings as Pipeline
from tests.helpers.exported import own_student, run_of
from tests.helpers.tiny_pipelines import stable_diffusion


def class_run(folder: Path, steps: int = 1, **settings: Any) -> Path:
    """Write a run whose student, of one or two steps, makes digits of 8x8, with its teacher beside it."""
    student = own_student("unet", folder)
    if steps == 2:
        student = FewStepGenerator(student.denoiser, 2.5, 0.5).eval()
    teacher = {"name": "native", "path": str(folder / "teacher")}
    return run_of(student, folder / "run", teacher, **settings)


def text_run(folder: Path) -> Path:
    """Write a run whose student and teacher are tiny pipelines of Stable Diffusion."""
    teacher = {"name": "diffusers", "path": str(stable_diffusion(folder / "teacher"))}
    student = FewStepGenerator(Pipeline(**teacher).load(), 2.5).eval()
    return run_of(student, folder / "run", teacher, guidance={"teacher": 3.5})


def opened(run: Path, with_teacher: bool = True) -> ShownRun:
    """Open a run for the page on the CPU."""
    return open_run(run, with_teacher, OpeningOptions(device="cpu"))
