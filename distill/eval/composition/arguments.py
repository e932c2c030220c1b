"""The arguments that `python -m eval geneval`, `dpg` and `text` share."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from distill.config.command_line import ArgumentParser
from distill.eval.command_line import find_subject
from distill.eval.preference.arguments import add_prompt_counts, add_sampling, add_subject, complete_sampling
from distill.eval.preference.subject_spec import SubjectSpec, refuse_settings
from distill.eval.results.tracking import Tracking, add_tracking, take_tracking


@dataclasses.dataclass(frozen=True)
class Request:
    """What is measured and how; the help of the flags explains the fields."""

    subject: SubjectSpec
    n: int | None
    draw: int | None
    per_prompt: int | None
    seed: int
    dtype: str
    batch_size: int
    device: str
    store: Path
    out: Path | None
    tracking: Tracking | None


def build_parser(command: str, description: str, prompts: str, per_prompt: str) -> ArgumentParser:
    """Build the parser of a command.

    `prompts` is the help of `--prompts`, and `per_prompt` says how many images of each are published.
    """
    parser = ArgumentParser(f"python -m eval {command}", description)
    add_subject(
        parser,
        "images that exist: a folder of sample.py or of the benchmark's scripts, or any files in "
        "the order of the prompts",
    )
    parser.add_argument("--prompts", required=True, help=f"{prompts}: a file, or OWNER/NAME:FILE of the hub")
    add_prompt_counts(parser, f"images of each prompt (default: {per_prompt})")
    add_sampling(parser, {"": "of the subject"})
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("runs/preference"),
        metavar="DIR",
        help="folder in which images and what was found in them are kept, beside what preference keeps "
        "(default: runs/preference)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"JSON file for the results, with a contact sheet beside it (default: the run's {command}.json)",
    )
    add_tracking(parser)
    return parser


def read_request(options: argparse.Namespace) -> Request:
    """Check the shared arguments and return them."""
    kind = find_subject(options)[2:]
    subject = SubjectSpec(kind, getattr(options, kind), f"--{kind}", False, options.steps, options.guidance)
    refuse_settings(subject)
    complete_sampling(options, [subject])
    return Request(
        subject,
        options.n,
        options.draw,
        options.per_prompt,
        options.seed,
        options.dtype,
        options.batch_size,
        options.device,
        options.store,
        options.out,
        take_tracking(options),
    )
