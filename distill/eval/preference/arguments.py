"""The arguments of `python -m eval preference`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.config.command_line import ArgumentParser, at_least, finite
from distill.config.errors import UserError
from distill.config.flags import DTYPES, add_device
from distill.eval.command_line import add_pipeline, find_subject
from distill.eval.preference.subject_spec import SubjectSpec, parse_against, refuse_settings
from distill.eval.prompt_sets.formats import FORMATS
from distill.eval.results.tracking import add_tracking, take_tracking

SIDES = {"": "of the first subject", "against-": "of --against"}
"""The two subjects in words, by the prefix of their flags."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the arguments. `asked` and `against` are the subjects; `seed` and `dtype` have their defaults."""
    parser = ArgumentParser(
        "python -m eval preference",
        "Score images with models of human preference, prompt by prompt, and count how often one model wins.",
    )
    add_subject(parser, "images that exist: a folder of sample.py, or any files in the order of the prompts")
    _add_scores(parser)
    _add_prompts(parser)
    add_prompt_counts(parser, "images of each prompt (default: 1, or all of a folder)")
    add_sampling(parser, SIDES)
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("runs/preference"),
        metavar="DIR",
        help="folder in which images and scores are kept (default: runs/preference)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON file for the results, with contact sheets beside it (default: the run's preference.json)",
    )
    add_tracking(parser)
    options = parser.parse_args(arguments)
    _choose_subjects(options)
    at_least(options, against_steps=1)
    finite(options, "against_guidance")
    complete_sampling(options, [spec for spec in (options.asked, options.against) if spec is not None])
    options.tracking = take_tracking(options)
    return options


def add_subject(parser: ArgumentParser, images: str) -> None:
    """Add the flags that say whose images are measured; `images` is the help of `--images`."""
    parser.add_argument("--run", metavar="PATH", help="run folder, checkpoint or export of a student")
    parser.add_argument("--teacher", metavar="PATH", help="folder of a teacher, sampled with EDM's sampler")
    add_pipeline(parser)
    parser.add_argument(
        "--images",
        metavar="PATH",
        help=images,
    )


def _add_scores(parser: ArgumentParser) -> None:
    """Add the second subject and the scores."""
    parser.add_argument(
        "--against",
        metavar="KIND:PATH",
        help="second subject, such as pipeline:PATH; teacher alone is the teacher of --run",
    )
    parser.add_argument(
        "--scores",
        required=True,
        metavar="NAMES",
        help="pickscore, hpsv2.1, hpsv3, imagereward, clipscore, vqascore, aesthetic, classifier:PATH and "
        "word_match:PATH, separated by commas",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="weights of a score, or NAME.SETTING=VALUE; may be repeated",
    )


def _add_prompts(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--prompts",
        help="file, dataset of the hub (OWNER/NAME[:FILE]), or labels:N (default: 80 prompts of our own)",
    )
    parser.add_argument(
        "--format", choices=list(FORMATS), help="format of --prompts (default: recognised by its content)"
    )
    parser.add_argument(
        "--captions",
        choices=["one", "all"],
        default="one",
        help="captions of each image of COCO (default: one, the caption of the lowest id)",
    )


def add_prompt_counts(parser: ArgumentParser, per_prompt: str) -> None:
    """Add the numbers of prompts and images; `per_prompt` is the help of `--per-prompt`."""
    parser.add_argument(
        "--n", type=int, help="number of prompts, which then are not the whole list (default: all)"
    )
    parser.add_argument(
        "--draw",
        type=int,
        metavar="SEED",
        help="draw the --n prompts with this seed (default: take the first of the list)",
    )
    parser.add_argument("--per-prompt", type=int, help=per_prompt)


def add_sampling(parser: ArgumentParser, sides: Mapping[str, str]) -> None:
    """Add the settings of sampling; `sides` has the subjects in words by the prefix of their flags."""
    parser.add_argument("--seed", type=int, help="seed of the first image; image i has seed + i (default: 0)")
    for side, whose in sides.items():
        parser.add_argument(
            f"--{side}steps",
            type=int,
            help=f"steps {whose}, a teacher (default: 18) or a pipeline (default: its own)",
        )
        parser.add_argument(
            f"--{side}guidance",
            type=float,
            help=f"guidance scale {whose}, a teacher (default: 1, none) or a pipeline (default: its own)",
        )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="precision in which images are made (default: float32)"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="images made at once (default: 16)")
    add_device(parser)


def _choose_subjects(options: argparse.Namespace) -> None:
    """Replace the flags of the subjects by `asked` and `against`."""
    kind = find_subject(options)[2:]
    path = getattr(options, kind)
    options.asked = SubjectSpec(kind, path, f"--{kind}", False, options.steps, options.guidance)
    refuse_settings(options.asked)
    if options.against is not None:
        options.against = parse_against(
            options.against, options.run, options.against_steps, options.against_guidance
        )
    elif options.against_steps is not None or options.against_guidance is not None:
        raise UserError("--against-steps and --against-guidance: go with --against only")


def complete_sampling(options: argparse.Namespace, subjects: Sequence[SubjectSpec]) -> None:
    """Check the numbers of prompts and the settings of sampling, and set `seed` and `dtype` if not given.

    Flags that say how images are made are refused if none are made.
    """
    if options.draw is not None and options.n is None:
        raise UserError("--draw: goes with --n, how many prompts to draw")
    at_least(options, n=1, per_prompt=1, seed=0, draw=0, batch_size=1, steps=1)
    finite(options, "guidance")
    if all(spec.kind == "images" for spec in subjects):
        for name in ("seed", "dtype"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name}: goes with images that are made; leave it out with --images")
    options.seed = options.seed or 0
    options.dtype = options.dtype or "float32"
