"""A stand-in for the first of two processes, of which the second has no gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.training.parallel.processes import Processes


class TwoProcesses(Processes):
    """The first of two processes; `summed` holds copies of what it adds to the zeros of the second."""

    summed: list[Tensor]

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), count=2)
        object.__setattr__(self, "summed", [])

    def start_sum(self, tensor: Tensor) -> Any:
        self.summed.append(tensor.clone())
        return Done()


class Done:
    """Communication that is over."""

    def wait(self) -> None:
        pass
