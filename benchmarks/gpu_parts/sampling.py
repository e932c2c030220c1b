"""Sampling: the time of an image by the student, by its bare network, and by the teacher in 50 steps."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.gpu_parts.part import Part, Record, compare_calls, forget, memory
from benchmarks.gpu_parts.runs import configure
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import balanced_labels, sample_generator, sample_teacher
from distill.training.distillation.build import build_generator, read_prompts
from distill.training.settings import DistillRun
from distill.types import Condition, Denoiser, Generator

RUNS = {"SDXL, adapters": "sdxl_dmd2", "CIFAR-10 size": "cifar10_sid"}
"""Runs whose student and teacher are sampled, by their names in the results."""
BATCHES = (1, 8)
TEACHER_STEPS = 50
TINY_STEPS = 2


def measure_sampling(part: Part) -> None:
    """Record the seconds of an image at each batch."""
    for name, run in RUNS.items():
        forget()
        config = configure(run, (), part.folder, part.tiny)
        teacher: Denoiser = config.teacher.load().to(part.device).eval().requires_grad_(False)
        student = build_generator(config.generator, teacher).to(part.device).eval().requires_grad_(False)
        for batch in BATCHES:
            part.write({"images": name, "batch": batch, **_measure(part, config, teacher, student, batch)})
        del teacher, student


def _measure(part: Part, config: DistillRun, teacher: Denoiser, student: Generator, batch: int) -> Record:
    """Return the seconds of an image by each way, in the precision in which the run would compute."""
    cond = _conditions(config, teacher, batch)
    sampler = Heun(steps=TINY_STEPS if part.tiny else TEACHER_STEPS)
    calls: dict[str, Callable[[], object]] = {
        "student": lambda: sample_generator(student, range(batch), cond, batch),
        **_passes(part, teacher, student, cond, batch),
        "student, again": lambda: sample_generator(student, range(batch), cond, batch),
    }
    seconds = 0.1 if part.tiny else 2.0
    with torch.autocast(part.device.type, torch.bfloat16, enabled=not part.tiny):
        times = compare_calls(part, calls, seconds)
        times |= compare_calls(
            part, {"teacher": lambda: sample_teacher(teacher, range(batch), cond, sampler, batch)}, seconds
        )
    per_image = {f"{name}_s": time / batch for name, time in times.items()}
    return {**per_image, "teacher_evaluations": sampler.evaluations, **memory()}


def _conditions(config: DistillRun, teacher: Denoiser, batch: int) -> Condition:
    prompts = read_prompts(config, teacher)
    return balanced_labels(batch, teacher.label_count) if prompts is None else prompts.balanced(batch)


def _passes(
    part: Part, teacher: Denoiser, student: Generator, cond: Condition, batch: int
) -> dict[str, Callable[[], object]]:
    """Return one pass of the student and one of the teacher, without drawing noise, decoding or copying."""
    z = torch.randn(batch, *student.noise_shape, device=part.device)
    t = torch.ones(batch, device=part.device)
    there = cond.to(part.device)

    @torch.inference_mode()
    def pass_of_student() -> object:
        return student(z, there)

    @torch.inference_mode()
    def pass_of_teacher() -> object:
        return teacher(z, t, there)

    return {"student's pass alone": pass_of_student, "bare network": pass_of_teacher}
