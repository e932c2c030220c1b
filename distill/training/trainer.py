"""The loop of every run: steps, statistics, samples, checkpoints, interruptions. No mathematics."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from distill.config.errors import UserError, reading
from distill.data.images import preview_count, save_samples_picture
from distill.diffusion.random import seeded
from distill.storage.files import new_folder, write_json
from distill.training.checkpoint import load_checkpoint, save_checkpoint
from distill.training.ema import EMA
from distill.training.logging import Averages, Clock, append_line
from distill.training.optimizer import Updater
from distill.training.settings import RunConfig
from distill.training.stop_condition import MONITOR, STOPPED, StopCondition

STATS = "stats.jsonl"
Monitor = Callable[[Tensor], Mapping[str, float]]
"""Images (n, c, h, w) in [-1, 1] -> measurements by name."""


@runtime_checkable
class Task(Protocol):
    """What a run does in each step. `modules` and `updaters` are the state of training besides the average; `tables` are for the report, each a
    JSON file of the run's folder, as of its newest checkpoint. `save` writes the network into a checkpoint, `export` as others open it; samples and
    `image_shape` are images to look at. `frozen_networks` hold memory and do not learn."""

    modules: dict[str, nn.Module]
    updaters: dict[str, Updater]
    ema: EMA[Any]
    image_shape: tuple[int, ...]
    label_count: int

    def start(self, step: int) -> None: ...
    def update(self, step: int, detailed: bool) -> Mapping[str, Tensor]: ...
    def sample(self, count: int, first_seed: int = 0) -> Tensor: ...
    def save(self, folder: Path) -> None: ...
    def export(self, folder: Path) -> None: ...
    def tables(self) -> dict[str, Any]: ...
    def frozen_networks(self) -> list[nn.Module]: ...


class Trainer:
    """Runs a task to its last step, from its newest checkpoint on."""

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        accelerator: Accelerator,
        clock: Clock,
        monitor: Monitor | None = None,
    ) -> None:
        self.config, self.task, self.accelerator, self.clock, self.monitor = (
            config,
            task,
            accelerator,
            clock,
            monitor,
        )
        self.step = 0
        self.seconds_before = 0.0
        self.saved_step: int | None = None
        self.averages = Averages()
        self.line: dict[str, float] = {}
        self.violation: str | None = None
        self.main = accelerator.is_main_process
        for guard in config.stop_when:
            if monitor is None and guard.measure.startswith(MONITOR):
                raise UserError(
                    f"stop_when: nothing measures '{guard.measure}' in this run; expected data, or monitor_reference"
                )

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint. Raises UserError where it is damaged or of another architecture."""
        optimizers = {name: updater.optimizer for name, updater in self.task.updaters.items()}
        progress = load_checkpoint(
            checkpoint, {**self.task.modules, "model": self.task.ema.average}, optimizers
        )
        with reading(checkpoint):
            self.step = self.saved_step = progress["step"]
            self.seconds_before, self.task.ema.updates = progress["seconds"], progress["ema_updates"]
            self.line = progress.get("line", {})
        self.violation = self._judge(lambda guard: guard.violation(self.line))

    def run(self) -> int:
        """Train to the end; returns 0, or, where the run was stopped and saved before it, 128 + the signal's number, or `STOPPED` for a guard."""
        config = self.config
        self.started = time.perf_counter()
        self.task.start(self.step)
        pace = 0.5 if sys.stderr.isatty() else 30.0
        bar = tqdm(
            total=config.steps,
            initial=self.step,
            disable=not self.main,
            dynamic_ncols=True,
            unit="step",
            mininterval=pace,
        )
        with interruptions() as caught, bar:
            if self.step == 0:
                self._look()
            while not self._agreed(caught) and self.step < config.steps:
                # Dropout is the only user of the global generator: its masks, too, depend on the step alone.
                torch.manual_seed(
                    seeded(config.seed, self.step, 2, self.accelerator.process_index).initial_seed()
                )
                detailed = (self.step + 1) % config.log_every == 0
                self.averages.add(self.task.update(self.step, detailed))
                self.step += 1
                bar.update()
                self._after_step(bar)
        if caught:
            self._save()
            self._say(
                f"{signal.Signals(caught[0]).name}: saved at step {self.step}; the same command continues from there"
            )
            return 128 + caught[0]
        if self.violation is not None:
            self._save()
            self._finish(
                f"stopped at step {self.step} by stop_when: {self.violation}; the same command with another bound continues"
            )
            return STOPPED
        self._finish(f"finished {self.step} steps in {self._seconds():.0f} s")
        return 0

    def _agreed(self, caught: list[int]) -> bool:
        """Whether any process was asked to stop, by a signal or by a guard: all must leave the loop at the same step."""
        if self.accelerator.num_processes > 1:
            mine = torch.tensor(
                [[caught[0] if caught else 0, self.violation is not None]], device=self.accelerator.device
            )
            number, stopped = self.accelerator.gather(mine).amax(0).tolist()
            caught[:] = [number] if number else []
            self.violation = self.violation or ("another process's measurement" if stopped else None)
        return bool(caught) or self.violation is not None

    def _judge(self, judge: Callable[[StopCondition], str | None]) -> str | None:
        """The first guard's verdict, if any has one."""
        return next(filter(None, map(judge, self.config.stop_when)), None)

    def _after_step(self, bar: tqdm) -> None:
        config, step = self.config, self.step
        last = step == config.steps
        if step % config.sample_every == 0 or last:
            self._look()
        measured = self._measure() if step % config.monitor_every == 0 or last else {}
        if step % config.log_every == 0 or last or measured:
            self._log(bar, measured)
        if step % config.checkpoint_every == 0 or last:
            self._save()

    def _log(self, bar: tqdm, measured: Mapping[str, float]) -> None:
        means = self.averages.take(lambda means: self.accelerator.reduce(means, reduction="mean"))
        rates = {
            f"lr/{name}": updater.settings.learning_rate(self.step - 1, self.config.steps)
            for name, updater in self.task.updaters.items()
        }
        line = {
            "step": self.step,
            "images": self.step * self.config.batch_size,
            "seconds": round(self._seconds(), 3),
        }
        line |= {**means, **rates, **self.clock.take(), **measured}
        self.line = line
        if self.main:
            append_line(self.config.run_dir / STATS, line)
            self.violation = self._judge(lambda guard: guard.check(line))
        self.accelerator.log(line, step=self.step)
        shown = {
            name.partition("/")[2]: value
            for name, value in line.items()
            if name.startswith(("loss/", MONITOR)) and name != f"{MONITOR}n"
        }
        bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()}, refresh=False)

    def _look(self) -> None:
        """Save a grid of samples, of the same seeds each time."""
        if self.main:
            with self.clock("sample"):
                samples = self.task.sample(preview_count(self.task.image_shape))
                path = self.config.run_dir / "samples" / f"step-{self.step:08d}.png"
                save_samples_picture(samples, path, self.task.label_count or None)

    def _measure(self) -> dict[str, float]:
        if self.monitor is None or not self.main:
            return {}
        with self.clock("monitor"):
            count = self.config.monitor_images
            measured = self.monitor(self.task.sample(count))
        return {f"{MONITOR}n": count, **{f"{MONITOR}{name}": value for name, value in measured.items()}}

    def _save(self) -> None:
        if self.saved_step == self.step:
            return
        self.accelerator.wait_for_everyone()
        if self.main:
            with self.clock("checkpoint"):
                progress = {
                    "seconds": self._seconds(),
                    "ema_updates": self.task.ema.updates,
                    "line": self.line,
                }
                optimizers = {name: updater.optimizer for name, updater in self.task.updaters.items()}
                save_checkpoint(
                    self.config.run_dir,
                    self.step,
                    self.task.modules,
                    optimizers,
                    progress,
                    self.task.save,
                    self.config.keep_checkpoints,
                )
                for name, table in self.task.tables().items():
                    write_json(self.config.run_dir / f"{name}.json", table)
        self.saved_step = self.step
        self.accelerator.wait_for_everyone()

    def _finish(self, said: str) -> None:
        if self.main:
            with new_folder(self.config.run_dir / "export") as folder:
                self.task.export(folder)
        self._say(f"{said}; the network is in {self.config.run_dir / 'export'}")
        self.accelerator.wait_for_everyone()  # launchers end the other processes where one leaves with a code that is not 0
        self.accelerator.end_training()

    def _seconds(self) -> float:
        """Seconds of training, over all resumptions."""
        return self.seconds_before + time.perf_counter() - self.started

    def _say(self, text: str) -> None:
        if self.main:
            tqdm.write(text)
            sys.stdout.flush()


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append to instead of stopping the process; a second signal stops it at once."""
    caught: list[int] = []

    def note(number: int, frame: object) -> None:
        if caught:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        caught.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
