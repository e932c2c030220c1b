"""Parts of a run that processes do together, called in processes that talk to each other.

`python -m tests.helpers.together FOLDER` calls every function of `CASES` in each of the processes that
torch.distributed.run starts, and writes what it returns to `FOLDER/PROCESS.pt`.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh

import distill.training.distillation.teacher_samples as teacher_samples
from distill.config.errors import TrainingError, UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.sources.digits import Settings as Digits
from distill.eval.features import load_extractor
from distill.eval.monitor import FrechetMonitor
from distill.eval.protocols import read_protocol
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.teachers.gaussian_mixture import Settings as Teacher
from distill.training.distillation.settings import TeacherSamplesSettings
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.finite import FiniteCheck
from distill.training.parallel.processes import Processes
from distill.training.parallel.sampling import gather_rows, measure_together, own_rows
from distill.types import Condition, Text
from tests.helpers.runs import ENVIRONMENT

TEACHER = Teacher.model_validate(
    {"components": [{"mean": [0.5, -1.0], "std": 0.4, "label": 0}, {"mean": [-2, 1], "std": 0.7, "label": 1}]}
)
COUNT = 10
"""Samples of the teacher, of which four are in a file."""


def call_in_processes(folder: Path, processes: int = 2) -> dict[str, list[Any]]:
    """Return what each case gave on each of so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launcher, "-m", __name__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [torch.load(folder / f"{process}.pt") for process in range(processes)]
    return {name: [one[name] for one in found] for name in CASES}


def main() -> None:
    folder = Path(sys.argv[1])
    distributed.init_process_group("gloo")
    processes = Processes(torch.device("cpu"), distributed.get_rank(), distributed.get_world_size())
    teacher_samples.SHARD = 4
    found = {name: case(processes, folder / name) for name, case in CASES.items()}
    torch.save(found, folder / f"{processes.index}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def message_of(call: Callable[[], object]) -> str:
    """Return the message with which a call fails, or nothing."""
    try:
        call()
    except (UserError, TrainingError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def rows(processes: Processes, folder: Path) -> list[Any]:
    """Return this process's rows of several counts, and all rows as they are gathered."""
    found = []
    for count in (1, 4, 7):
        own = own_rows(count, processes)
        found.append((own, gather_rows(torch.tensor(own), count, processes).tolist()))
    return found


def errors(processes: Processes, folder: Path) -> list[str]:
    """Return the messages if the last process fails, and if all do."""

    def fail(on: Sequence[int]) -> None:
        with raised_by_all(processes):
            if processes.index in on:
                raise UserError(f"failed on {processes.index}")

    last = processes.count - 1
    return [message_of(partial(fail, on)) for on in ([], [last], range(processes.count))]


def finite(processes: Processes, folder: Path) -> list[str]:
    """Return the messages of the steps after one with a nan on the last process, which spreads to all."""
    check, u = FiniteCheck(processes), torch.tensor([0.25, 0.5]) / (1 + processes.index)
    is_broken = processes.index == processes.count - 1
    said = []
    for step in range(6, 10):
        value = torch.tensor(torch.nan if step == 7 and is_broken else 1.0)
        check.add_losses({"fake": torch.tensor(1.0), "gan": value}, u)
        check.add_norm("fake", torch.tensor(torch.nan if step == 7 else 1.0))
        said.append(message_of(partial(check.end_step, step)))
    check.add_norm("generator", torch.tensor(torch.inf))
    said.append(message_of(partial(check.end_step, 10)))
    return [*said, message_of(check.settle)]


def teacher_files(processes: Processes, folder: Path) -> dict[str, bytes]:
    """Return the files of the teacher's samples."""
    return draw_samples(processes, folder)[0]


def teacher_files_of_sharded(processes: Processes, folder: Path) -> tuple[dict[str, bytes], list[int]]:
    """Return those of a teacher that counts as sharded, and the sizes of the batches it was called with."""
    mesh = init_device_mesh("cpu", (processes.count,))
    return draw_samples(dataclasses.replace(processes, mesh=mesh), folder)


def draw_samples(processes: Processes, folder: Path) -> tuple[dict[str, bytes], list[int]]:
    """Return the files of the teacher's samples, and the sizes of the batches it was called with."""
    sizes: list[int] = []
    forward = GaussianMixture.forward

    def counted(self: GaussianMixture, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        sizes.append(len(x_t))
        return forward(self, x_t, t, cond)

    drawn = {"path": folder, "count": COUNT, "sampler": {"steps": 2}}
    settings = TeacherSamplesSettings.model_validate(drawn)
    teacher = TEACHER.load()
    samples = teacher_samples.TeacherSamples(settings, TEACHER, teacher, processes)
    GaussianMixture.forward = counted  # type: ignore[method-assign]
    try:
        samples.draw(teacher)
    finally:
        GaussianMixture.forward = forward  # type: ignore[method-assign]
    assert len(samples.stored.x) == COUNT
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}, sizes


def full_disk(processes: Processes, folder: Path) -> str:
    """Return the message if the last process cannot write its file."""
    save = teacher_samples.save_tensors

    def fail(path: Path, tensors: dict[str, Tensor], sealed: bool) -> None:
        if processes.index == processes.count - 1:
            raise OSError(28, "No space left on device")
        save(path, tensors, sealed)

    teacher_samples.save_tensors = fail
    try:
        return message_of(partial(draw_samples, processes, folder))
    finally:
        teacher_samples.save_tensors = save


def prompts(processes: Processes, folder: Path) -> tuple[list[str], list[float], list[str]]:
    """Return the prompts that an encoder was given, the conditions, and the prompts of a second call."""
    asked: list[str] = []

    def encode(drawn: Sequence[str]) -> Condition:
        asked.extend(drawn)
        lengths = torch.tensor([[float(len(prompt))] for prompt in drawn])
        return Condition(text=Text({"tokens": lengths}, {"tokens": -torch.ones(1, 1)}))

    encoded = EncodedPrompts(["a", "bb", "ccc"], encode, "encoder", folder, most=processes.most)
    text = encoded(torch.tensor([0, 1, 0] if processes.is_main else [2, 2, 2])).text
    assert text is not None
    first = list(asked)
    processes.wait()
    asked.clear()
    encoded(torch.tensor([2, 1, 0]))
    return first, text.given["tokens"].flatten().tolist(), asked


def statistics(processes: Processes, folder: Path) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of real images."""
    extractor = load_extractor("pixels")
    real = FrechetMonitor(Digits().load("train"), read_protocol("fd-pixel"), extractor, processes).real
    return real.mean, real.cov


class Differences:
    """A monitor whose features fail at an image of -1."""

    def features(self, images: Tensor) -> Tensor:
        if (images < 0).any():
            raise UserError("an image is below 0")
        return images.square()

    def measure(self, features: Tensor) -> dict[str, float]:
        return {"n": len(features), "sum": features.sum().item()}


def measured(processes: Processes, folder: Path) -> tuple[dict[str, float], str]:
    """Return the measurements of images 0 to 6, and the message if the last process cannot measure."""

    def sample(rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float32)

    def broken(rows: Sequence[int]) -> Tensor:
        return sample(rows) if processes.is_main else -sample(rows)

    monitor = Differences()
    found = dict(measure_together(monitor, sample, 7, processes))
    return found, message_of(partial(measure_together, monitor, broken, 7, processes))


CASES: dict[str, Callable[[Processes, Path], Any]] = {
    "rows": rows,
    "errors": errors,
    "finite": finite,
    "teacher_files": teacher_files,
    "teacher_files_of_sharded": teacher_files_of_sharded,
    "full_disk": full_disk,
    "prompts": prompts,
    "statistics": statistics,
    "measured": measured,
}

if __name__ == "__main__":
    main()
