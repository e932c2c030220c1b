"""A run in which one process fails: `torchrun -m tests.helpers.failing_process HOW NUMBER CONFIG`.

HOW is `hang`, where process NUMBER sleeps after its second step, or `fail`, where it raises an error.
"""

from __future__ import annotations

import sys
import time

import train
from distill.config.command_line import run_command
from distill.config.errors import UserError
from distill.training.trainer import Trainer


def break_step(how: str, process: int) -> None:
    """Replace the third step of a process."""
    make_step = Trainer._make_step

    def broken(self: Trainer) -> None:
        if self.step == 2 and self.processes.index == process:
            if how == "hang":
                time.sleep(1000)
            raise UserError("data: is not there; expected images")
        make_step(self)

    Trainer._make_step = broken  # type: ignore[method-assign]


if __name__ == "__main__":
    break_step(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:] = sys.argv[3:]
    run_command(train.main)
