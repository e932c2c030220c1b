"""One process that computes on the CPU without others."""

import torch

from distill.training.parallel.processes import Processes

ALONE = Processes(torch.device("cpu"))
