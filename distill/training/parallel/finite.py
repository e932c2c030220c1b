"""Look at values of the device one step late, so that nothing waits for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distill.config.errors import TrainingError
from distill.training.parallel.processes import Processes


class HostCopy:
    """A copy of a small tensor in the host's memory, which is made while the device goes on."""

    def __init__(self, tensor: Tensor) -> None:
        self.event: torch.cuda.Event | None = None
        if not tensor.is_cuda:
            self.copy = tensor
            return
        self.copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self.copy.copy_(tensor, non_blocking=True)
        self.event = torch.cuda.Event()
        self.event.record()

    def read(self) -> list[float]:
        """Return the values as a flat list. Waits until the device has come as far as where this was made."""
        if self.event is not None:
            self.event.synchronize()
        return self.copy.numpy().reshape(-1).tolist()


@dataclasses.dataclass(frozen=True)
class _Step:
    """The values of one step, with the quantiles of the noise levels that they belong to, if any."""

    number: int
    names: list[str]
    values: Tensor
    levels: list[Tensor | None]
    first_broken: HostCopy
    """The place among the values of the first that is not finite, of each process; their number if all are.
    """


class FiniteCheck:
    """Stops a run whose losses or gradient norms are not finite, with the same message on all processes.

    The outcome of a step is read during the next one. Its optimisers leave out an update whose gradient is
    not finite, so that nothing is lost by then; `settle` reads what is left before a checkpoint. All
    processes note the same values, by name, and call `end_step` and `settle` at the same steps.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._names: list[str] = []
        self._values: list[Tensor] = []
        self._levels: list[Tensor | None] = []
        self._pending: list[_Step] = []

    def add_losses(self, losses: Mapping[str, Tensor], u: Tensor) -> None:
        """Note the losses of a micro-batch with noise levels at the quantiles u, (b,)."""
        for name, loss in losses.items():
            self._add(f"loss '{name}'", loss, u)

    def add_norm(self, name: str, norm: Tensor) -> None:
        """Note the norm of a network's gradient."""
        self._add(f"the norm of the {name}'s gradient", norm, None)

    def add_scale(self, name: str, has_collapsed: Tensor) -> None:
        """Note whether the scale of a loss in fp16 fell so low that its gradients overflow whatever it is."""
        self._add(f"the scale of the {name}'s loss", torch.where(has_collapsed, torch.nan, 1.0), None)

    def end_step(self, number: int) -> None:
        """Close a step, and raise TrainingError if a value of the step before is not finite."""
        before, self._pending = self._pending, []
        if self._values:
            values = torch.stack([value.to(torch.float32) for value in self._values])
            places = torch.arange(len(values), device=values.device)
            first_broken = torch.where(values.isfinite(), len(values), places).amin(0, keepdim=True)
            of_all = HostCopy(self.processes.gather(first_broken))
            self._pending = [_Step(number, self._names, values, self._levels, of_all)]
            self._names, self._values, self._levels = [], [], []
        self._read(before)

    def settle(self) -> None:
        """Raise TrainingError if any value so far is not finite."""
        before, self._pending = self._pending, []
        self._read(before)

    def _add(self, name: str, value: Tensor, u: Tensor | None) -> None:
        self._names.append(name)
        self._values.append(value.detach())
        self._levels.append(u)

    def _read(self, steps: Sequence[_Step]) -> None:
        for step in steps:
            places = step.first_broken.read()
            # Later values are computed from earlier ones: the first that is not finite is the cause.
            first = min(places)
            if first < len(step.names):
                process = places.index(first)
                # All processes read the same places, so that all come here and hear the same one.
                has_it = process == self.processes.index
                messages = self.processes.gather_objects(self._describe(step, int(first)) if has_it else "")
                raise TrainingError(messages[process])

    def _describe(self, step: _Step, place: int) -> str:
        value, u = step.values[place].item(), step.levels[place]
        where = levels = ""
        if u is not None:
            levels = f"; its batch's noise levels are quantiles {u.min():.4f} to {u.max():.4f}"
            if self.processes.count > 1:
                where = f" on process {self.processes.index} of {self.processes.count}"
        name = step.names[place]
        return f"step {step.number}: {name} is {value}{where}{levels}; the last checkpoint is untouched"


class Agreement:
    """Values that all processes agree on, read one step after each process gave its own."""

    def __init__(self) -> None:
        self._before: HostCopy | None = None

    def exchange(self, of_all: Tensor, at_once: bool) -> list[float]:
        """Give the values that were gathered from all processes, and return those of the step before.

        The first ones, and with `at_once` these, are waited for.
        """
        now = HostCopy(of_all)
        before, self._before = self._before, now
        return (now if before is None or at_once else before).read()
