"""The types that cross rooms: schedules, conditions, denoisers, generators, rewards, scores and losses."""

from distill.types.condition import Condition, Pairs, Text
from distill.types.critic import Critic, Reward, per_sample
from distill.types.data import DataSource, InMemorySource, Labelled
from distill.types.device import to_device
from distill.types.loss import LossOutput, Objective, Penalty, Scores
from distill.types.model import (
    Denoiser,
    EntryPoint,
    Features,
    Generator,
    ImageCodec,
    ImageModel,
    Prediction,
    PromptEncoder,
    StepInputs,
)
from distill.types.schedule import NoiseSchedule, expand_like, max_noise_to_signal

__all__ = [
    "Condition",
    "Critic",
    "DataSource",
    "Denoiser",
    "EntryPoint",
    "Features",
    "Generator",
    "ImageCodec",
    "ImageModel",
    "InMemorySource",
    "Labelled",
    "LossOutput",
    "NoiseSchedule",
    "Objective",
    "Pairs",
    "Penalty",
    "Prediction",
    "PromptEncoder",
    "Reward",
    "Scores",
    "StepInputs",
    "Text",
    "expand_like",
    "max_noise_to_signal",
    "per_sample",
    "to_device",
]
