"""`python -m distill COMMAND`: what is done beside training and sampling.

report            write report.html and summary.json of a run
export            write a run's student as others open it, with a model card, and upload it
convert           turn a published EDM or EDM2 network into config.json and model.safetensors
train-classifier  train a small image classifier, for the reward `classifier`

`python -m distill COMMAND --help` explains one of them.
"""

from __future__ import annotations

import importlib

from distill.config.command_line import run_command
from distill.config.errors import UserError, did_you_mean

COMMANDS = {
    "report": "distill.publishing.report.page",
    "export": "distill.publishing.export",
    "convert": "distill.publishing.convert",
    "train-classifier": "distill.rewards.pretrained.train_classifier",
}
"""Commands, and the module whose `main(arguments)` runs each; it is imported when it is asked for."""


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        raise UserError(f"'{command}': no command of python -m distill{did_you_mean(command, COMMANDS)}")
    return importlib.import_module(COMMANDS[command]).main(rest) or 0


if __name__ == "__main__":
    run_command(main)
