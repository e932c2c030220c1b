"""Noise schedules in the form of diffusers' schedulers: read from a teacher's, written for a student's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError, reading
from distill.diffusion.prediction_types import PredictionType
from distill.diffusion.schedules import DDPM, Flow
from distill.types import NoiseSchedule

ALL_PREDICTION = 1e10
"""`timestep_scaling` with which a consistency model's scheduler returns its prediction of x_0 only."""
MIN_SIGNAL = 2.0**-24
"""alpha^2 at the end of a schedule of zero terminal signal-to-noise ratio, as in diffusers' Euler scheduler.

Zero itself would be divided by.
"""


def read_scheduler(scheduler: Any) -> tuple[NoiseSchedule, PredictionType]:
    """Return the noise schedule and the prediction type of a diffusers scheduler."""
    name = type(scheduler).__name__
    prediction = scheduler.config.get("prediction_type", "epsilon")
    is_flow = name.startswith("FlowMatch") or prediction == "flow_prediction"
    if is_flow or scheduler.config.get("use_flow_sigmas"):
        return Flow(), "flow_prediction"
    if not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(
            f"teacher.path: scheduler {name} is unknown here; "
            "expected one of DDPM's kind, with alphas_cumprod, or of flow matching"
        )
    if prediction not in get_args(PredictionType):
        known = ", ".join(get_args(PredictionType))
        raise UserError(
            f"teacher.path: {name}'s prediction_type '{prediction}' is unknown here; expected one of: {known}"
        )
    with reading(f"teacher.path: {name}"):
        return DDPM.of(read_signal(scheduler)), prediction


def read_shift(scheduler: Any, tokens: int) -> float:
    """Return the factor by which a scheduler of flow matching raises sigma/alpha of evenly spaced times.

    If it depends on the resolution, it is that for an image of so many tokens: the exponential of a number
    that rises linearly with them, or this number.
    """
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift") or config.get("flow_shift") or 1.0)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (tokens - few) * (high - low) / (many - few)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


def read_signal(scheduler: Any) -> Float[Tensor, " n"]:
    """Return alpha^2 at every step; the last is above 0."""
    signal = scheduler.alphas_cumprod.double()
    if signal[-1] == 0:
        signal[-1] = min(MIN_SIGNAL, signal[-2].item() / 2)
    return signal


def student_scheduler(
    scheduler: Any, schedule: NoiseSchedule, prediction: PredictionType, times: Sequence[float]
) -> Any:
    """Return a scheduler that steps at these times, as far as it can, and adds fresh noise between steps.

    In flow matching the times are evenly spaced from 1 to the last. Otherwise the teacher's schedule is cut
    off at the first time, and divided evenly.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, LCMScheduler

    if isinstance(schedule, Flow):
        last = times[-1] if len(times) > 1 else None
        return FlowMatchEulerDiscreteScheduler(
            scheduler.config.num_train_timesteps, shift_terminal=last, stochastic_sampling=True
        )
    betas = scheduler.betas.clone()
    count = int(times[0]) + 1
    if betas[-1] >= 1:
        signal = read_signal(scheduler)
        betas[-1] = 1 - signal[-1] / signal[-2]
    return LCMScheduler(
        num_train_timesteps=count,
        trained_betas=betas[:count].tolist(),
        original_inference_steps=count,
        prediction_type=prediction,
        timestep_scaling=ALL_PREDICTION,
        steps_offset=1,  # without effect, but pipelines expect it
    )


def check_steps(scheduler: Any, schedule: NoiseSchedule, times: Sequence[float]) -> None:
    """Raise UserError if a student's scheduler does not step at these times: it could not be exported."""
    trained = scheduler.config.num_train_timesteps
    if not isinstance(schedule, Flow) and len(times) > trained:
        raise UserError(
            f"generator.steps: is {len(times)}; expected at most {trained}, as many noise levels as the "
            "teacher was trained at up to generator.init_noise_to_signal"
        )
    scheduler.set_timesteps(len(times))
    unit = trained if isinstance(schedule, Flow) else 1
    taken = scheduler.timesteps / unit
    if not torch.allclose(taken.double(), torch.tensor(times, dtype=torch.float64), rtol=0, atol=1e-5):
        found = ", ".join(f"{t:g}" for t in times)
        possible = ", ".join(f"{t:g}" for t in taken.tolist())
        raise UserError(
            f"generator.further_noise_to_signal: steps at t = {found}; expected {possible}, or null: "
            "pipelines have no others"
        )
