"""Settings of a run, `train.py`'s configuration: a file for each kind of task."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from distill.training.optimization.settings import OptimizerSettings
from distill.training.settings.distillation import DistillRun
from distill.training.settings.pretraining import TrainAutoencoderRun, TrainTeacherRun
from distill.training.settings.run import RunSettings

__all__ = [
    "RUN",
    "DistillRun",
    "RunConfig",
    "RunSettings",
    "TrainAutoencoderRun",
    "TrainTeacherRun",
    "optimizers",
]

RunConfig = DistillRun | TrainTeacherRun | TrainAutoencoderRun
RUN = TypeAdapter(Annotated[RunConfig, Field(discriminator="task")])


def optimizers(config: RunConfig) -> dict[str, OptimizerSettings]:
    """Return the optimisers of a run by the dotted names of their settings."""
    if not isinstance(config, DistillRun):
        return {"optimizer": config.optimizer}
    found = {"generator.optimizer": config.generator.optimizer, "fake.optimizer": config.fake.optimizer}
    if config.discriminator is not None:
        found["discriminator.optimizer"] = config.discriminator.optimizer
    return found
