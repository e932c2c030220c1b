"""Which checkpoint a run continues from, and whether it may become longer than it was to be."""

from __future__ import annotations

from pathlib import Path

from distill.config.errors import UserError
from distill.networks.folder import checkpoints, newest_checkpoint, step_of
from distill.training.checkpoints.damage import Damage, newest_whole, require_whole
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.processes import Processes
from distill.training.settings import RunConfig, RunSettings, optimizers


def check_growth(config: RunConfig, before: int) -> None:
    """Refuse another length of a run, unless the run ends as if it had had this length from its start."""
    steps, folder = config.steps, config.run_dir
    if steps < before:
        raise UserError(
            f"steps: is {steps}, and the run in {folder} has {before}; expected {before} or more, "
            "since a run can be made longer, not shorter"
        )
    made = _steps_made(config)
    for place, settings in optimizers(config).items():
        # Decays are the longer the slower: if they agree on the last step made, they do on all before it.
        if made and settings.learning_rate(made - 1, before) != settings.learning_rate(made - 1, steps):
            raise UserError(
                f"steps: is {steps}, and {place} let the learning rate fall in {folder} as for {before} "
                f"(decay_from: {settings.decay_from:g}), so that {made} steps are those of a shorter run; "
                f"expected {before}, or a new run that starts with init_from"
            )


def same_command(config: RunSettings) -> str:
    """Name the command that continues a run from its newest checkpoint."""
    return "the same command" if config.resume == "auto" else "the same command with --resume auto"


def _steps_made(config: RunConfig) -> int:
    """Return the step after which a run continues."""
    if config.resume in ("auto", "never"):
        newest = newest_checkpoint(config.run_dir)
    else:
        newest = Path(config.resume)
    return 0 if newest is None else step_of(newest)


def check_resume(config: RunConfig) -> None:
    """Refuse checkpoints where none should be, and a path that is none."""
    if config.resume == "never" and checkpoints(config.run_dir):
        raise UserError(f"resume: 'never', but {config.run_dir} has checkpoints; give another run_dir")
    if config.resume not in ("auto", "never") and not Path(config.resume).is_dir():
        raise UserError(
            f"resume: {config.resume} is no checkpoint; expected auto, never, or a folder such as "
            "checkpoints/step-00001000"
        )


def checkpoint_to_continue(config: RunConfig, processes: Processes) -> tuple[Path | None, list[Damage]]:
    """Return the checkpoint that the settings ask for, and the damaged ones after it."""
    with raised_by_all(processes):
        check_resume(config)
    if config.resume == "auto":
        return newest_whole(config.run_dir, processes)
    if config.resume == "never":
        return None, []
    path = Path(config.resume)
    require_whole(path, processes)
    return path, []
