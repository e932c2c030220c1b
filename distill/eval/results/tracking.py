"""`--log-to`: results of an evaluation in experiment trackers, under names that stay the same."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.config.command_line import ArgumentParser
from distill.config.errors import UserError, did_you_mean

FLAGS = ("log_to", "log_project", "log_run", "log_dir")


@dataclasses.dataclass(frozen=True)
class Tracking:
    """The trackers that get the results; the help of the flags explains the fields."""

    trackers: tuple[str, ...]
    project: str
    run: str | None
    folder: Path


def add_tracking(parser: ArgumentParser) -> None:
    """Add the flags of trackers."""
    parser.add_argument(
        "--log-to",
        metavar="NAMES",
        help="experiment trackers that get the results too: tensorboard, wandb and trackio, separated by "
        "commas (default: none)",
    )
    parser.add_argument("--log-project", metavar="NAME", help="project in these trackers (default: distill)")
    parser.add_argument(
        "--log-run",
        metavar="NAME",
        help="name of the run in them (default: the command and the name of what is measured)",
    )
    parser.add_argument(
        "--log-dir",
        type=Path,
        metavar="DIR",
        help="folder for the files of tensorboard and wandb (default: runs/logs)",
    )


def take_tracking(options: argparse.Namespace) -> Tracking | None:
    """Replace the flags by what they mean; refuse trackers that are not known or not installed."""
    from distill.publishing.trackers import PROJECT, TRACKERS, check_installed

    given = {name: vars(options).pop(name) for name in FLAGS}
    if given["log_to"] is None:
        for name in FLAGS[1:]:
            if given[name] is not None:
                raise UserError(f"--{name.replace('_', '-')}: goes with --log-to")
        return None
    names = tuple(dict.fromkeys(name.strip() for name in given["log_to"].split(",")))
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--log-to: '{name}' is no tracker{did_you_mean(name, TRACKERS)}")
    check_installed(names, "--log-to")
    project = given["log_project"] or PROJECT
    return Tracking(names, project, given["log_run"], given["log_dir"] or Path("runs/logs"))


@dataclasses.dataclass(frozen=True)
class Tracked:
    """What trackers get of a result: numbers by step and name, images by name, and facts that describe them.

    `name` is that of what was measured, for the name of the run.
    """

    command: str
    name: str
    numbers: Mapping[int, Mapping[str, float]]
    facts: Mapping[str, Any]
    images: Mapping[str, Path] = dataclasses.field(default_factory=dict)


def log_results(tracking: Tracking | None, tracked: Tracked) -> None:
    """Log a result to the trackers that were asked for; images come with the last step.

    Numbers that are not finite are left out. The results are printed and written before, so that a tracker
    that fails loses nothing; its error is one line.
    """
    if tracking is None:
        return
    run = tracking.run or f"{tracked.command}-{tracked.name}"
    for name in tracking.trackers:
        try:
            _log(name, tracking, run, tracked)
        except Exception as error:  # each tracker has errors of its own, which share no class
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"--log-to {name}: {reason:.300}; the results are printed all the same"
            ) from error
        print(f"logged to {name}: project {tracking.project}, run {run}")


def _log(name: str, tracking: Tracking, run: str, tracked: Tracked) -> None:
    from distill.publishing.trackers import open_tracker

    tracker = open_tracker(name, tracking.project, run, tracking.folder, tracked.facts)
    try:
        last = max(tracked.numbers)
        for step, numbers in sorted(tracked.numbers.items()):
            finite = {key: float(value) for key, value in numbers.items() if math.isfinite(value)}
            tracker.log(finite, tracked.images if step == last else {}, step)
    finally:
        tracker.finish()


def step_of_run(run: Path | str | None) -> int:
    """Return the step of a checkpoint, or of a run's newest one; 0 for what is no run or has none."""
    from distill.networks.folder import newest_checkpoint, step_of

    if run is None:
        return 0
    checkpoint = newest_checkpoint(Path(run)) or Path(run).resolve()
    return step_of(checkpoint) if checkpoint.name.startswith("step-") else 0
