"""The arguments of `python -m eval` without a command."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from distill.config.command_line import ArgumentParser, at_least
from distill.config.errors import UserError
from distill.eval.command_line import find_subject
from distill.eval.results.tracking import Tracking, add_tracking, take_tracking


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The images to measure, exactly one of the first four, and how; the help of the flags explains each."""

    run: Path | None
    teacher: Path | None
    images: Path | None
    array: Path | None
    data: str | None
    prompts: Path | None
    protocol: str | None
    n: int | None
    seed: int
    batch_size: int
    no_teacher: bool
    guidance: float | None
    features: Path | None
    out: Path | None
    tracking: Tracking | None


def parse(arguments: list[str], commands: Iterable[str]) -> RunOptions:
    """Read the arguments; `commands` are named in the help."""
    parser = ArgumentParser(
        "python -m eval",
        "Compare generated images with real images, and measure how long an image takes. "
        f"Commands with flags of their own: {', '.join(commands)}; "
        "python -m eval fid --help explains one.",
    )
    _add_subjects(parser)
    _add_settings(parser)
    add_tracking(parser)
    options = parser.parse_args(arguments)
    subject = find_subject(options)
    if options.data is None and options.run is None:
        raise UserError(f"{subject}: expected --data with the real images, such as --data digits")
    if options.no_teacher and options.run is None:
        raise UserError("--no-teacher: goes with --run only")
    if options.guidance is not None and (options.no_teacher or not (options.run or options.teacher)):
        raise UserError("--guidance: goes with a teacher; expected --teacher, or --run without --no-teacher")
    for name in ("seed", "prompts"):
        if getattr(options, name) is not None and not (options.run or options.teacher):
            raise UserError(f"--{name}: goes with images that are made; expected --run or --teacher")
    at_least(options, n=4, batch_size=1, seed=0, guidance=0)
    options.seed = options.seed or 0
    options.tracking = take_tracking(options)
    return RunOptions(**vars(options))


def _add_subjects(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--run", type=Path, help="run folder: measure its student and its teacher, or the teacher it trained"
    )
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="folder of a teacher to measure instead")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="folder of images to measure instead; its sub-folders, if there are any, are the labels",
    )
    parser.add_argument(
        "--array",
        type=Path,
        metavar="FILE",
        help=".npy or .npz file of uint8 images to measure instead",
    )


def _add_settings(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        help="real images: digits, image_folder:PATH[:HELD_OUT_PATH], array:PATH[:HELD_OUT_PATH], or as "
        "under `data` in a configuration, such as '{name: emoji, resolution: 16}' (default: the run's)",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="text file with one prompt on each line, for models that take text (default: the run's)",
    )
    parser.add_argument(
        "--protocol",
        choices=("fd-pixel", "fd-effnet"),
        help="features of the metrics (default: fd-pixel for images of at most 1024 values, else fd-effnet)",
    )
    parser.add_argument(
        "--n",
        type=int,
        help="number of images; those of a folder or file are chosen evenly "
        "(default: 10000, or all of a folder or file)",
    )
    parser.add_argument("--seed", type=int, help="seed of the first image; image i has seed + i (default: 0)")
    parser.add_argument("--batch-size", type=int, default=256, help="images sampled at once (default: 256)")
    parser.add_argument("--no-teacher", action="store_true", help="measure a run's student only")
    parser.add_argument(
        "--guidance",
        type=float,
        help="guidance scale of the teacher (default: the run's own for prompts, otherwise 1, no guidance)",
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="DIR",
        help="folder that keeps the features of images that exist (default: runs/features)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for eval.json and eval/*.png (default: the run's; nothing is written without a run)",
    )
