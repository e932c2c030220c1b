"""Train a run: `python train.py CONFIG [--key value ...]`. `python train.py --help` explains the settings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from distill.config.command_line import run_command
from distill.config.errors import UserError
from distill.config.help import WIDTH, describe_most_used, describe_topic, sections
from distill.config.help_values import describe_values
from distill.training.config import read_config
from distill.training.settings import DistillRun, RunConfig, TrainTeacherRun

DRY_RUN = "--dry-run"
MEMORY = "--memory"
GIB = 1 << 30
ASSUMED_GIB = 80.0
"""Free memory of the GPU that a dry run chooses `micro_batch_size: auto` for, unless it is given."""
HELP = ("--help", "-h")
TASKS = {"distill": DistillRun, "train_teacher": TrainTeacherRun}
MOST_USED = (
    "run_dir",
    "steps",
    "batch_size",
    "micro_batch_size",
    "device",
    "precision",
    "compile",
    "channels_last",
    "deterministic",
    "seed",
    "resume",
    "data",
    "teacher",
    "generator.optimizer.lr",
    "generator.steps",
    "objective",
)
USAGE = f"""usage: python train.py CONFIG [--key value ...] [{DRY_RUN} [{MEMORY} GIB]]
       python train.py [CONFIG] --help [TOPIC]

Distils a teacher into a generator of one step or a few, or trains a teacher. CONFIG is a YAML file such as
configs/digits/dmd2.yaml. Override a setting by its dotted name, such as --generator.optimizer.lr 2e-4, a
choice by its name, such as --generator.network.name mlp, and an entry of a list by its position, such as
--terms.0.weight 1.
The same command, given again, continues an interrupted run. {DRY_RUN} trains nothing: it prints the networks,
their memory and the work of a step, and needs no weights. With `micro_batch_size: auto` it assumes a GPU with
{ASSUMED_GIB:g} GiB of free memory, or as many as {MEMORY} says.

The most used settings, with type and default:
{{most_used}}

More help:
  --help TOPIC          the settings under a dotted name, such as generator, terms.reward or teacher.diffusers
  --help all            every setting
  CONFIG --help [TOPIC] the values of a configuration, and how they differ from the defaults;
                        with a topic, such as all, what they mean
{{sections}}
Words: docs/glossary.md. Methods: docs/methods.md. Values of the papers: docs/recipes.md.
Speed and memory on a GPU: docs/speed.md."""


def main(arguments: list[str]) -> int:
    """Train the run, describe it, or print help; return the exit code."""
    asked = [index for index, argument in enumerate(arguments) if argument in HELP]
    if asked or not arguments:
        index = asked[0] if asked else 0
        print(help_text(arguments[:index], arguments[index + 1 :]))
        return 0
    if DRY_RUN in arguments:
        return dry_run(arguments)

    if any(split_memory(argument)[0] == MEMORY for argument in arguments):
        raise UserError(f"{MEMORY}: belongs to {DRY_RUN}; expected both, or neither")
    config = read_run_file(arguments)
    from distill.training.launch import launch
    from eval.monitor import build_monitor

    return launch(config, build_monitor(config))


def dry_run(arguments: Sequence[str]) -> int:
    """Print what a run would take, and return the exit code."""
    from distill.training.dry_run.summary import describe_run

    rest, memory = take_memory(arguments)
    print(describe_run(read_run_file(rest), memory, show_progress=True))
    return 0


def split_memory(argument: str) -> list[str]:
    """Split `--memory=GIB` at its sign, and return every other argument alone."""
    return argument.split("=", 1) if argument.startswith(f"{MEMORY}=") else [argument]


def take_memory(arguments: Sequence[str]) -> tuple[list[str], int]:
    """Return the arguments without `--memory GIB`, and the memory in bytes."""
    rest = [part for argument in arguments for part in split_memory(argument)]
    if MEMORY not in rest:
        return rest, round(ASSUMED_GIB * GIB)
    place = rest.index(MEMORY)
    try:
        gib = float(rest[place + 1])
    except (IndexError, ValueError):
        gib = 0.0
    if not 0 < gib < 1e6:
        raise UserError(f"{MEMORY}: expected the free memory of a GPU in GiB after it, such as 24")
    return rest[:place] + rest[place + 2 :], round(gib * GIB)


def help_text(before: Sequence[str], after: Sequence[str]) -> str:
    """Answer `--help`: of the program, of a topic, or of the configuration that stands before it."""
    if len(after) > 1:
        raise UserError(f"'{after[1]}': unexpected after {HELP[0]}; expected one topic, such as generator")
    topic = after[0] if after else None
    if before:
        return describe_values(Path(before[0]), read_run_file(before), topic)
    if topic is not None:
        return describe_topic(TASKS, topic)
    names = textwrap.fill(f"Topics: {', '.join(sections(TASKS))}.", WIDTH)
    return USAGE.format(most_used=describe_most_used(DistillRun, MOST_USED), sections=names)


def read_run_file(arguments: Sequence[str]) -> RunConfig:
    """Read the configuration that the first argument names, with the overrides that follow it."""
    path, *overrides = arguments
    if path.startswith("-"):
        raise UserError(f"'{path}' stands where the configuration should; expected a YAML file first")
    return read_config(Path(path), [argument for argument in overrides if argument != DRY_RUN])


if __name__ == "__main__":
    run_command(main)
