"""Train a run: `python train.py CONFIG [--key value ...]`. `python train.py --help` explains every key."""

from __future__ import annotations

from pathlib import Path

from distill.config.command_line import run_command
from distill.config.errors import UserError
from distill.config.help import describe_settings
from distill.training.config import read_config
from distill.training.settings import DistillRun, TrainTeacherRun

DRY_RUN = "--dry-run"
USAGE = f"""usage: python train.py CONFIG [--key value ...] [{DRY_RUN}]

CONFIG is a YAML file such as configs/digits/dmd2.yaml; any of its settings can be overridden by its dotted name, for example
--generator.optimizer.lr 2e-4. An interrupted run continues when the same command is given again.
{DRY_RUN} trains nothing: it prints the networks, their memory and the work of a step, without weights.
"""


def main(arguments: list[str]) -> int:
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(USAGE)
        for settings in (DistillRun, TrainTeacherRun):
            task = settings.model_fields["task"].annotation.__args__[0]
            print(f"task: {task} - {settings.__doc__}\n", *describe_settings(settings), sep="\n")
        return 0
    if arguments[0].startswith("-"):
        raise UserError(f"'{arguments[0]}' stands where the configuration should; expected a YAML file first")
    config = read_config(Path(arguments[0]), [argument for argument in arguments[1:] if argument != DRY_RUN])
    if DRY_RUN in arguments:
        from distill.training.dry_run.summary import describe_run

        print(describe_run(config, show_progress=True))
        return 0

    from distill.training.launch import launch
    from eval.monitor import build_monitor

    return launch(config, build_monitor(config))


if __name__ == "__main__":
    run_command(main)
