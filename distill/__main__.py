"""`python -m distill COMMAND`: all commands but training, sampling and evaluation.

report            write report.html and summary.json of a run
export            write the student of a run as an export with a model card, and upload it
demo              serve a page on this machine that makes images with a student beside its teacher
models            list the pipelines of diffusers that can be distilled
precompute        encode a run's images and prompts once, before training; several processes share the work
convert           turn a published EDM or EDM2 pickle into config.json and model.safetensors
train-classifier  train a small image classifier, for the reward `classifier`
train-clip        train a small CLIP network, for the reward `clipscore` and as a text encoder
train-word-match  train the reward `word_match`, which reads ImageNet features and words

`python -m distill COMMAND --help` explains one of them.
"""

from __future__ import annotations

import importlib
import sys

from distill.config.command_line import run_command
from distill.config.errors import UserError, did_you_mean

COMMANDS = {
    "report": "distill.publishing.report.page",
    "export": "distill.publishing.export",
    "demo": "distill.publishing.demo.command",
    "models": "distill.publishing.models",
    "precompute": "distill.training.batches.precompute",
    "convert": "distill.publishing.convert",
    "train-classifier": "distill.rewards.pretrained.train_classifier",
    "train-clip": "distill.rewards.pretrained.train_clip",
    "train-word-match": "distill.rewards.pretrained.train_word_match",
}
"""The module whose `main(arguments)` runs a command. It is imported when the command is asked for."""


def main(arguments: list[str]) -> None:
    """Run one command, or print the list of them."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    command, *rest = arguments
    if command not in COMMANDS:
        raise UserError(f"'{command}': no command of python -m distill{did_you_mean(command, COMMANDS)}")
    importlib.import_module(COMMANDS[command]).main(rest)


if __name__ == "__main__":
    run_command(main, in_one_process=sys.argv[1:2] != ["precompute"])
