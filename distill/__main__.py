"""All commands: `distill COMMAND`, which `python -m distill COMMAND` runs as well."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from distill import __version__
from distill.config.command_line import as_called, run_command
from distill.config.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from distill.training.parallel.processes import Processes
    from distill.training.parallel.sampling import Monitor
    from distill.training.settings import RunConfig
    from distill.types import Denoiser

USAGE = """usage: python -m distill COMMAND ...

train             distil a teacher into a student of one step or a few, or train a teacher or an autoencoder
sample            generate images with a student, or with its teacher
eval              measure a run, images or pipelines, and compare results
report            write report.html and summary.json of a run
export            write the student of a run as an export with a model card, and upload it
configs           list the presets, print one, or copy one
demo              serve a page on this machine that makes images with a student beside its teacher
models            list the pipelines of diffusers that can be distilled
precompute        encode a run's images and prompts once, before training; several processes share the work
convert           turn a published EDM or EDM2 pickle into config.json and model.safetensors
train-classifier  train a small image classifier, for the reward `classifier`
train-clip        train a small CLIP network, for the reward `clipscore` and as a text encoder
train-word-match  train the reward `word_match`, which reads ImageNet features and words

`python -m distill COMMAND --help` explains one of them. `python -m distill --version` prints the version."""
COMMANDS = {
    "train": "distill.training.config.command",
    "sample": "distill.publishing.sample_command",
    "eval": "distill.eval.__main__",
    "report": "distill.publishing.report.page",
    "export": "distill.publishing.export",
    "configs": "distill.config.presets",
    "demo": "distill.publishing.demo.command",
    "models": "distill.publishing.models",
    "precompute": "distill.training.batches.precompute",
    "convert": "distill.publishing.convert",
    "train-classifier": "distill.rewards.pretrained.train_classifier",
    "train-clip": "distill.rewards.pretrained.train_clip",
    "train-word-match": "distill.rewards.pretrained.train_word_match",
}
"""The module whose `main(arguments)` runs a command. It is imported when the command is asked for."""
IN_SEVERAL_PROCESSES = ("train", "eval", "precompute")
"""Commands that a launcher may start in several processes; `eval` refuses them for some of its own."""
ON_SHORTAGE = {"sample": "lower --batch-size or --size", "eval": "lower --batch-size"}
"""What to do when a command runs out of memory, if it is not to lower micro_batch_size."""


def main(arguments: list[str]) -> int | None:
    """Run one command, or print the list of them; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(as_called(USAGE))
        return None
    if arguments == ["--version"]:
        print(f"distill {__version__}")
        return None
    command, *rest = arguments
    if command not in COMMANDS:
        raise UserError(f"'{command}': no command of python -m distill{did_you_mean(command, COMMANDS)}")
    return run(command, rest)


def run(command: str, arguments: list[str]) -> Any:
    """Run a command, with what its room needs from those above it; return the exit code."""
    from_above: dict[str, tuple[Callable[..., Any], ...]] = {
        "train": (build_monitor,),
        "sample": (open_teacher,),
    }
    return importlib.import_module(COMMANDS[command]).main(arguments, *from_above.get(command, ()))


def build_monitor(config: RunConfig, processes: Processes) -> Monitor | None:
    """Build what measures a run's images as it trains."""
    from distill.eval import monitor

    return monitor.build_monitor(config, processes)


def open_teacher(run_dir: Path, resolution: int | None) -> Denoiser:
    """Open a teacher, or the teacher of a run."""
    from distill import load_teacher
    from distill.publishing.run_sources import CONFIG, load_run_teacher

    load = load_run_teacher if (run_dir / CONFIG).is_file() else load_teacher
    return load(run_dir, resolution)


def run_as(*command: str) -> NoReturn:
    """Run the command of the process, whose first words are given, and exit with its code."""
    name = next(iter([*command, *sys.argv[1:]]), "")
    run_command(
        lambda arguments: main([*command, *arguments]),
        on_shortage=ON_SHORTAGE.get(name, "lower micro_batch_size"),
        in_one_process=name not in IN_SEVERAL_PROCESSES,
    )


if __name__ == "__main__":
    run_as()
