"""The arguments of `python -m eval fid` and of `python -m eval sweep`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from distill.config.command_line import ArgumentParser, at_least, finite
from distill.config.errors import UserError
from distill.config.flags import DTYPES, add_device
from distill.eval.command_line import NETWORKS, add_pipeline, find_subject, list_flags
from distill.eval.results.tracking import Tracking, add_tracking, take_tracking

GOES_WITH = {
    "seed": NETWORKS,
    "prompts": NETWORKS,
    "steps": ("teacher", "pipeline"),
    "guidance": ("teacher", "pipeline"),
    "sampler": ("teacher",),
    "dtype": ("pipeline",),
}
"""Flags that say how images are made, and the subjects that they go with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasurementOptions:
    """Settings of every measurement under a protocol; the help of the flags explains each."""

    run: Path | None
    reference: list[str]
    protocol: str | None
    weights: list[str]
    prompts: Path | None
    n: int | None
    batch_size: int
    device: str
    features: Path
    tracking: Tracking | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FidOptions(MeasurementOptions):
    """Settings of `fid`, with exactly one of run, teacher, pipeline, images and array."""

    teacher: Path | None
    pipeline: str | None
    images: Path | None
    array: Path | None
    seed: int | None
    steps: int | None
    guidance: float | None
    sampler: str | None
    dtype: str | None
    held_out: str | None
    bootstrap: int
    per_label: bool
    out: Path | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions(MeasurementOptions):
    """Settings of `sweep`."""

    run: Path


def parse_fid(arguments: list[str]) -> FidOptions:
    """Read the arguments of `fid`."""
    parser = ArgumentParser(
        "python -m eval fid",
        "Measure the Fréchet distance, and statistics that go with it, of images under a named protocol.",
    )
    add_subjects(parser)
    add_sampling(parser)
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=20,
        help="replicates of the bootstrap that estimates the distance's deviation, 0 for none (default: 20)",
    )
    parser.add_argument(
        "--held-out",
        metavar="IMAGES",
        help="real images that are not in the reference, as --reference takes them: their own distance is "
        "the unit of FDr (default: the held-out part of the reference's data source)",
    )
    parser.add_argument("--per-label", action="store_true", help="measure the distance of each label too")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the results (default: none)")
    add_measurement(parser)
    options = parser.parse_args(arguments)
    subject = find_subject(options)
    if not options.reference and options.run is None:
        raise UserError(f"{subject}: expected --reference with the real images or their statistics")
    refuse_foreign_flags(options, subject)
    if options.bootstrap == 1:
        raise UserError("--bootstrap 1: has no spread; expected 0 or at least 2")
    at_least(options, n=4, batch_size=1, seed=0, steps=1, bootstrap=0)
    finite(options, "guidance")
    options.tracking = take_tracking(options)
    return FidOptions(**vars(options))


def name_of(options: FidOptions) -> str:
    """Return the name of what is measured, the last part of its path."""
    measured = options.run or options.teacher or options.pipeline or options.images or options.array
    path = Path(str(measured))
    return path.name or path.resolve().name


def refuse_foreign_flags(options: argparse.Namespace, subject: str) -> None:
    """Refuse flags that say how images are made if `subject`, the flag of what is measured, makes none so."""
    for name, subjects in GOES_WITH.items():
        if getattr(options, name) is not None and subject[2:] not in subjects:
            raise UserError(f"--{name}: goes with {list_flags(subjects)} only")


def parse_sweep(arguments: list[str]) -> SweepOptions:
    """Read the arguments of `sweep`."""
    parser = ArgumentParser(
        "python -m eval sweep",
        "Measure the checkpoints of a run that are not measured yet, and the best one three times.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder; sweep.json is written there")
    add_measurement(parser)
    options = parser.parse_args(arguments)
    at_least(options, n=4, batch_size=1)
    options.tracking = take_tracking(options)
    return SweepOptions(**vars(options))


def add_subjects(parser: ArgumentParser) -> None:
    """Add the flags that say whose images are measured."""
    parser.add_argument("--run", type=Path, help="run folder, checkpoint or export of a student")
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="PATH",
        help="folder of a teacher, or pickle of EDM or EDM2, sampled with EDM's sampler",
    )
    add_pipeline(parser)
    parser.add_argument(
        "--images",
        type=Path,
        metavar="PATH",
        help="folder, .zip or .tar of images, or folder of .tar files",
    )
    parser.add_argument("--array", type=Path, metavar="FILE", help=".npy or .npz file of uint8 images")


def add_sampling(parser: ArgumentParser) -> None:
    """Add the flags that say how images are made."""
    parser.add_argument(
        "--seed",
        type=int,
        help="seed of the first image, for one repetition (default: the protocol's repetitions)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="steps of the teacher's sampler (default: 18) or of the pipeline (default: its own)",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        help="guidance scale of the teacher's sampler (default: 1, none) or of the pipeline "
        "(default: its own)",
    )
    parser.add_argument(
        "--sampler",
        metavar="SETTINGS",
        help="further settings of the teacher's sampler, "
        "such as churn=40,churn_min=0.05,churn_max=50,churn_noise=1.003 (default: none)",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the pipeline (default: float32)")


def add_measurement(parser: ArgumentParser) -> None:
    """Add the flags of every measurement under a protocol."""
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="[PROTOCOL=]REFERENCE",
        help="published statistics (.npz, .pkl), real images as --images or --array takes them, "
        "or a data source (default: the run's data); repeat it to give one protocol its own",
    )
    parser.add_argument(
        "--protocol",
        metavar="NAME[,NAME...]",
        help="name of the protocol, or of several that fid measures from one pass over the images; "
        "python -m eval protocols explains all (default: fd-pixel for images of few pixels, else fd-effnet)",
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[FEATURES=]PATH",
        help="file or folder of the feature network (default: the installed one, or a download); "
        "with several protocols, repeat it with the name of the features, such as clip=models/clip",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="text file with one prompt on each line, or a benchmark's file, such as captions_val2014.json; "
        "they are taken in turn, for models that take text",
    )
    parser.add_argument(
        "--n",
        type=int,
        help="number of generated images; those of a folder or file are chosen evenly "
        "(default: the protocol's)",
    )
    parser.add_argument("--batch-size", type=int, default=256, help="images sampled at once (default: 256)")
    add_device(parser)
    parser.add_argument(
        "--features",
        type=Path,
        default=Path("runs/features"),
        metavar="DIR",
        help="folder of the feature store (default: runs/features)",
    )
    add_tracking(parser)
