"""`python train.py CONFIG [--key value ...]` trains a run; `python train.py --help` explains the settings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distill.config.command_line import as_called, process_number
from distill.config.errors import UserError
from distill.config.help import WIDTH, describe_most_used, describe_topic, sections
from distill.config.help_values import describe_values
from distill.config.presets import find_config
from distill.config.settings import Settings
from distill.training.config import read_config
from distill.training.settings import DistillRun, RunConfig, TrainAutoencoderRun, TrainTeacherRun

if TYPE_CHECKING:
    from distill.training.launch import BuildMonitor

DRY_RUN = "--dry-run"
MEMORY, PROCESSES, NODES = "--memory", "--processes", "--nodes"
NUMBERS = {
    MEMORY: "the free memory of a GPU in GiB after it, such as 24",
    PROCESSES: "the number of processes after it, such as 8",
    NODES: "the number of machines after it, such as 2",
}
"""Words of a dry run, each with what stands after it."""
GIB = 1 << 30
ASSUMED_GIB = 80.0
"""Free memory of the GPU that a dry run chooses `micro_batch_size: auto` for, unless it is given."""
HELP = ("--help", "-h")
TASKS: dict[str, type[Settings]] = {
    "distill": DistillRun,
    "train_teacher": TrainTeacherRun,
    "train_autoencoder": TrainAutoencoderRun,
}
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
USAGE = f"""usage: python train.py CONFIG [--key value ...]
       python train.py CONFIG [--key value ...] {DRY_RUN} [{MEMORY} GIB] [{PROCESSES} N [{NODES} M]]
       python train.py [CONFIG] --help [TOPIC]

Distils a teacher into a generator of one step or a few, or trains a teacher or an autoencoder. CONFIG is a
YAML file or the name of a preset, such as digits/dmd2; `python -m distill configs list` shows them. Override
a setting by its dotted name, such as --generator.optimizer.lr 2e-4, a choice by its name, such as
--generator.network.name mlp, and an entry of a list by its position, such as --terms.0.weight 1.
The same command, given again, continues an interrupted run. {DRY_RUN} trains nothing: it prints the networks,
their memory and the work of a step, and needs no weights. With `micro_batch_size: auto` it assumes a GPU with
{ASSUMED_GIB:g} GiB of free memory, or as many as {MEMORY} says. With {PROCESSES} N it describes one
of N processes on one machine, or on as many as {NODES} says: its memory, and what it sends in a step.

The most used settings, with type and default:
{{most_used}}

More help:
  --help TOPIC          the settings under a dotted name, such as generator, terms.reward or teacher.diffusers
  --help all            every setting
  CONFIG --help [TOPIC] the values of a configuration, and how they differ from the defaults;
                        with a topic, such as all, what they mean
{{sections}}
Words: docs/glossary.md. Methods: docs/methods.md. Values of the papers: docs/recipes.md.
Speed and memory on a GPU: docs/speed.md. Many GPUs: docs/clusters.md."""


def main(arguments: list[str], build_monitor: BuildMonitor | None = None) -> int:
    """Train the run, describe it, or print help; return the exit code.

    `build_monitor` builds what measures the images of a run as it goes.
    """
    asked = [index for index, argument in enumerate(arguments) if argument in HELP]
    is_answer = bool(asked) or not arguments or DRY_RUN in arguments
    if is_answer and process_number() > 0:
        return 0  # the first of several processes answers for all
    if asked or not arguments:
        index = asked[0] if asked else 0
        print(help_text(arguments[:index], arguments[index + 1 :]))
        return 0
    if DRY_RUN in arguments:
        return dry_run(arguments)

    for argument in arguments:
        word = split_number(argument)[0]
        if word in NUMBERS:
            raise UserError(f"{word}: belongs to {DRY_RUN}; expected both, or neither")
    config = read_run_file(arguments)
    from distill.training.launch import launch

    return launch(config, build_monitor)


def dry_run(arguments: Sequence[str]) -> int:
    """Print what a run would take, and return the exit code."""
    from distill.training.dry_run.summary import describe_run

    rest, numbers = take_numbers(arguments)
    if NODES in numbers and PROCESSES not in numbers:
        raise UserError(f"{NODES}: belongs to {PROCESSES}; expected both, or neither")
    text = describe_run(
        read_run_file(rest),
        memory=round(numbers.get(MEMORY, ASSUMED_GIB) * GIB),
        show_progress=True,
        processes=round(numbers.get(PROCESSES, 1)),
        nodes=round(numbers.get(NODES, 1)),
    )
    print(text)
    return 0


def split_number(argument: str) -> list[str]:
    """Split `--memory=GIB` and its like at the sign, and return every other argument alone."""
    word, sign, value = argument.partition("=")
    return [word, value] if sign and word in NUMBERS else [argument]


def take_numbers(arguments: Sequence[str]) -> tuple[list[str], dict[str, float]]:
    """Return the arguments without the words of a dry run, and the numbers after these words."""
    rest = [part for argument in arguments for part in split_number(argument)]
    numbers: dict[str, float] = {}
    for word, expected in NUMBERS.items():
        if word not in rest:
            continue
        place = rest.index(word)
        number = read_number(word, rest[place + 1 : place + 2])
        if number is None:
            raise UserError(f"{word}: expected {expected}")
        numbers[word] = number
        del rest[place : place + 2]
    return rest, numbers


def read_number(word: str, given: Sequence[str]) -> float | None:
    """Return the number that is given after a word, None if it is none or not in range."""
    try:
        number = float(given[0])
    except (IndexError, ValueError):
        return None
    is_allowed = 0 < number < 1e6 and (word == MEMORY or number.is_integer())
    return number if is_allowed else None


def help_text(before: Sequence[str], after: Sequence[str]) -> str:
    """Answer `--help`: of the program, of a topic, or of the configuration that stands before it."""
    if len(after) > 1:
        raise UserError(f"'{after[1]}': unexpected after {HELP[0]}; expected one topic, such as generator")
    topic = after[0] if after else None
    if before:
        config = read_run_file(before)
        return describe_values(find_config(before[0]), config, topic)
    if topic is not None:
        return describe_topic(TASKS, topic)
    names = textwrap.fill(f"Topics: {', '.join(sections(TASKS))}.", WIDTH)
    return as_called(USAGE).format(most_used=describe_most_used(DistillRun, MOST_USED), sections=names)


def read_run_file(arguments: Sequence[str]) -> RunConfig:
    """Read the configuration that the first argument names, with the overrides that follow it."""
    path, *overrides = arguments
    if path.startswith("-"):
        raise UserError(
            f"'{path}' stands where the configuration should; expected a YAML file or a preset first"
        )
    return read_config(find_config(path), [argument for argument in overrides if argument != DRY_RUN])
