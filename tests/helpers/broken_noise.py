"""Train a run whose noise is not a number on the second process, from the third batch on.

`python -m tests.helpers.broken_noise CONFIG [--key value ...]` takes the arguments of train.py.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

import train
from distill.config.command_line import run_command
from distill.training.batches import Batch, Batches


def main(arguments: list[str]) -> int:
    draw = Batches._draw

    def broken(self: Batches, index: int, real: Tensor | None, labels: Tensor | None) -> Batch:
        batch = draw(self, index, real, labels)
        if index < 2 or self.process != 1:
            return batch
        return dataclasses.replace(batch, eps=torch.full_like(batch.eps, torch.nan))

    Batches._draw = broken  # type: ignore[method-assign]
    return train.main(arguments)


if __name__ == "__main__":
    run_command(main)
