"""Noise schedules as the schedulers of diffusers have them."""

from __future__ import annotations

from typing import Any, get_args

from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.diffusion.prediction import PredictionType
from distill.diffusion.schedules import DDPM, Flow
from distill.types import NoiseSchedule

ALL_PREDICTION = 1e10
"""`timestep_scaling` under which what a consistency model's scheduler takes of its input is nothing, and of its prediction of x_0 all."""
MIN_SIGNAL = 2.0**-24
"""alpha^2 where a schedule of zero terminal signal-to-noise ratio ends, as diffusers' Euler scheduler has it: with 0 one would divide by it."""


def read_scheduler(scheduler: Any) -> tuple[NoiseSchedule, PredictionType]:
    """Schedule and kind of prediction of a diffusers scheduler. Raises UserError, naming it, where either is unknown here."""
    name, prediction = type(scheduler).__name__, scheduler.config.get("prediction_type", "epsilon")
    if (
        name.startswith("FlowMatch")
        or prediction == "flow_prediction"
        or scheduler.config.get("use_flow_sigmas")
    ):
        return Flow(), "flow_prediction"
    if not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(
            f"teacher.path: scheduler {name} is unknown here; expected one of DDPM's kind, with alphas_cumprod, or of flow matching"
        )
    if prediction not in get_args(PredictionType):
        raise UserError(
            f"teacher.path: {name}'s prediction_type '{prediction}' is unknown here; expected one of: {', '.join(get_args(PredictionType))}"
        )
    return DDPM.of(read_signal(scheduler)), prediction


def read_signal(scheduler: Any) -> Float[Tensor, " n"]:
    """alpha^2 at every step, never 0."""
    signal = scheduler.alphas_cumprod.double()
    if signal[-1] == 0:
        signal[-1] = min(MIN_SIGNAL, signal[-2].item() / 2)
    return signal
