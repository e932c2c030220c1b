"""Names of the types of prediction, which `prediction.py` explains; importing them does not import torch."""

from __future__ import annotations

from typing import Literal

PredictionType = Literal["epsilon", "v_prediction", "flow_prediction", "score", "sample"]
"""The names are those of diffusers' schedulers, where they have one."""
