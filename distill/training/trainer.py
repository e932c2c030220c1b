"""The loop of every run: steps, statistics, samples, checkpoints and interruptions."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator

from distill.config.errors import reading
from distill.config.progress import ProgressBar
from distill.data.images import preview_count, save_samples_picture
from distill.diffusion.random import seeded
from distill.networks.folder import EXPORT
from distill.storage.files import write_json
from distill.training.batches import Purpose
from distill.training.checkpoints import load_checkpoint, save_checkpoint
from distill.training.checkpoints.continuation import same_command
from distill.training.logging import Averages, Clock, append_line, log_picture
from distill.training.optimization.ema import measure_averages
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.finite import Agreement
from distill.training.parallel.folders import new_shared_folder, writing
from distill.training.parallel.launchers import is_launched
from distill.training.parallel.processes import Processes
from distill.training.parallel.sampling import Monitor, measure_together, sample_together
from distill.training.parallel.watchdog import Progress
from distill.training.settings import RunConfig
from distill.training.settings.stop_condition import MONITOR, STOPPED, StopCondition
from distill.training.task import Task
from distill.types import to_device

STATS = "stats.jsonl"


class Trainer:
    """Runs a task from its newest checkpoint to its last step."""

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        processes: Processes,
        clock: Clock,
        monitor: Monitor | None = None,
        trackers: Accelerator | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.config, self.task, self.processes = config, task, processes
        self.clock, self.monitor, self.trackers = clock, monitor, trackers
        self.progress = progress or Progress()
        self.step = 0
        self.seconds_before = 0.0
        self.saved_step: int | None = None
        self.averages = Averages()
        self.agreement = Agreement()
        self.line: dict[str, float] = {}
        self.violation: str | None = None
        self.signal, self.is_stopped, self.is_detailed = 0, False, False
        self.has_waited = True
        self.main = processes.is_main

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint."""
        averages = self.task.ema.saved_modules() or {"model": self.task.ema.average}
        modules = {**self.task.modules, **averages}
        progress = load_checkpoint(checkpoint, modules, self.task.updaters, self.processes)
        with reading(checkpoint):
            self.step = self.saved_step = progress["step"]
            self.seconds_before = progress["seconds"]
            self.task.ema.restore(progress["ema_updates"], progress.get("ema_selected", 0))
            self.line = progress.get("line", {})
        self.violation = self._violation(lambda condition: condition.violation(self.line))

    def run(self) -> int:
        """Train to the last step and return 0.

        A run that is stopped earlier is saved: it returns 128 + the signal's number, or `STOPPED` if a stop
        condition ended it.
        """
        self.started = time.perf_counter()
        self.task.start(self.step)
        self.bar = ProgressBar(
            "training", self.config.steps, "steps", initial=self.step, hidden=not self.main, leave=True
        )
        with interruptions(is_launched()) as caught, self.bar:
            if self.step == 0:
                self._save_samples()
            self._report()
            while not self._must_stop(caught) and self.step < self.config.steps:
                self._make_step()
                self.bar.update()
                self._after_step()
            if self.signal or self.is_stopped:
                self._save()
        if self.signal:
            name = signal.Signals(self.signal).name
            self._say(f"{name}: saved at step {self.step}; {same_command(self.config)} continues from there")
            self._end_trackers()
            return 128 + self.signal
        if self.is_stopped:
            self._finish(
                f"stopped at step {self.step} by stop_when: {self.violation}; "
                f"{same_command(self.config)} with another bound continues"
            )
            return STOPPED
        self._finish(f"finished {self.step} steps in {self._seconds():.0f} s")
        return 0

    def _report(self, activity: str = "") -> None:
        """Tell the watchdog and the progress bar that a step is about to begin, or another activity."""
        self.progress.report(self.step, activity or "training")
        self.bar.show_activity(activity)

    def _make_step(self) -> None:
        # Dropout alone uses the global generator: its masks depend on the step and the process, as all random
        # numbers do.
        random = seeded(self.config.seed, self.step, Purpose.DROPOUT, self.processes.index)
        torch.manual_seed(random.initial_seed())
        self.is_detailed = (self.step + 1) % self.config.log_every == 0
        self.averages.add(self.task.update(self.step, self.is_detailed))
        self.task.finite.end_step(self.step)
        self.step += 1
        self.progress.report(self.step)

    def _must_stop(self, caught: list[int]) -> bool:
        """Return whether a signal or a stop condition asks any process to stop.

        All processes must leave the loop at the same step. If there are several, they agree on the signals
        that each knew a step earlier, and after a step that waited for the device on what each knows now. The
        line with a violation is the same on all.
        """
        self.signal = caught[0] if caught else 0
        if self.processes.count > 1:
            mine = to_device(torch.tensor([self.signal]), self.processes.device)
            of_all = self.processes.gather(mine).amax(0, keepdim=True)
            self.signal = int(self.agreement.exchange(of_all, at_once=self.has_waited)[0])
        self.is_stopped = self.violation is not None
        return bool(self.signal) or self.is_stopped

    def _violation(self, find: Callable[[StopCondition], str | None]) -> str | None:
        """Return the first violation of a stop condition, if there is one."""
        for condition in self.config.stop_when:
            found = find(condition)
            if found:
                return found
        return None

    def _after_step(self) -> None:
        config, step = self.config, self.step
        last = step == config.steps

        def is_due(interval: int | None) -> bool:
            return interval is not None and (last or step % interval == 0)

        intervals = (config.sample_every, config.monitor_every, config.log_every, config.checkpoint_every)
        shows, measures, logs, saves = map(is_due, intervals)
        self.has_waited = shows or measures or logs or saves
        if self.has_waited:
            self.task.finite.settle()
        if shows:
            self._save_samples()
        measured = self._measure() if measures else {}
        if logs or measured:
            self._log(measured)
        if saves:
            self._save()
        self._report()

    def _log(self, measured: Mapping[str, float]) -> None:
        means = self.averages.take(self.processes.mean)
        rates = {
            f"lr/{name}": updater.settings.learning_rate(self.step - 1, self.config.steps)
            for name, updater in self.task.updaters.items()
        }
        line = {
            "step": self.step,
            "images": self.step * self.config.batch_size,
            "seconds": round(self._seconds(), 3),
        }
        # Clocks differ: all processes take the main process's line, so that they stop at the same one.
        line = self.processes.main_object({**line, **means, **rates, **self.clock.take(), **measured})
        self.line = line
        if self.main:
            path = self.config.run_dir / STATS
            with writing(path):
                append_line(path, line)
        self.violation = self.violation or self._violation(
            lambda condition: condition.check(line, self.is_detailed)
        )
        if self.trackers is not None:
            self.trackers.log(line, step=self.step)
        self._show(line)

    def _show(self, line: Mapping[str, float]) -> None:
        """Write losses and measurements behind the progress bar."""
        shown = [
            f"{name.partition('/')[2]} {value:.3g}"
            for name, value in line.items()
            if name.startswith(("loss/", MONITOR)) and name != f"{MONITOR}n"
        ]
        self.bar.note(", ".join(shown))

    def _save_samples(self) -> None:
        """Save a grid of samples, of the same seeds each time."""
        self._report("sampling")
        with self.clock("sample"):
            count = self.config.preview.count or preview_count(self.task.image_shape)
            samples = sample_together(self.task.preview, count, self.processes)
            if self.main:
                path = self.config.run_dir / "samples" / f"step-{self.step:08d}.png"
                with writing(path):
                    save_samples_picture(samples, path, self.task.preview_conditions)
                if self.trackers is not None:
                    log_picture(self.trackers, "samples", path, self.step)

    def _measure(self) -> dict[str, float]:
        monitor, count = self.monitor, self.config.monitor_images
        if monitor is None:
            return {}
        self._report("measuring")
        with self.clock("monitor"):
            measured, of_averages = measure_averages(
                self.task.ema,
                lambda: measure_together(monitor, self.task.sample, count, self.processes),
            )
        of_best = {f"{MONITOR}{name}": value for name, value in measured.items()}
        return {f"{MONITOR}n": count, **of_best, **of_averages}

    def _save(self) -> None:
        if self.saved_step == self.step:
            return
        self._report("saving")
        self.task.finite.settle()
        with self.clock("checkpoint"):
            progress = {
                "seconds": self._seconds(),
                "ema_updates": self.task.ema.updates,
                "ema_selected": self.task.ema.selected,
                "line": self.line,
            }
            save_checkpoint(
                self.config.run_dir,
                self.step,
                {**self.task.modules, **self.task.ema.saved_modules()},
                self.task.updaters,
                progress,
                self.task.save,
                self.config.keep_checkpoints,
                self.processes,
            )
            self._save_tables()
        self.saved_step = self.step

    def _save_tables(self) -> None:
        folder = self.config.run_dir
        with raised_by_all(self.processes), writing(folder):
            if self.main:
                for name, table in self.task.tables().items():
                    write_json(folder / f"{name}.json", table)

    def _finish(self, message: str) -> None:
        self.progress.report(self.step, "exporting")
        path = self.config.run_dir / EXPORT
        with new_shared_folder(path, self.processes) as folder, raised_by_all(self.processes), writing(path):
            self.task.export(folder)
        self._say(f"{message}; the network is in {self.config.run_dir / 'export'}")
        # A launcher ends the other processes if one leaves with a code that is not 0.
        self.processes.wait()
        self._end_trackers()

    def _end_trackers(self) -> None:
        if self.trackers is not None:
            self.trackers.end_training()

    def _seconds(self) -> float:
        """Return the seconds of training over all resumptions."""
        return self.seconds_before + time.perf_counter() - self.started

    def _say(self, text: str) -> None:
        if self.main:
            print(text, flush=True)


@contextmanager
def interruptions(is_launched: bool) -> Iterator[list[int]]:
    """Yield a list that SIGINT, SIGTERM and SIGUSR1 append to instead of stopping the process.

    A second SIGINT or SIGTERM stops it at once, unless a launcher started it, which may send the signal that
    reached the process already.
    """
    caught: list[int] = []

    def note(number: int, frame: object) -> None:
        if caught and not is_launched and number != signal.SIGUSR1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        caught.append(number)

    noted = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    previous = {number: signal.signal(number, note) for number in noted}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
