"""Settings of a run, `train.py`'s configuration: a file for each kind of task."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from distill.training.settings.distillation import DistillRun
from distill.training.settings.pretraining import TrainAutoencoderRun, TrainTeacherRun
from distill.training.settings.run import RunSettings

__all__ = ["RUN", "DistillRun", "RunConfig", "RunSettings", "TrainAutoencoderRun", "TrainTeacherRun"]

RunConfig = DistillRun | TrainTeacherRun | TrainAutoencoderRun
RUN = TypeAdapter(Annotated[RunConfig, Field(discriminator="task")])
