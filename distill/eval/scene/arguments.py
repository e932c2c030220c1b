"""The arguments of `python -m eval scene`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from distill.config.command_line import ArgumentParser, at_least
from distill.config.errors import UserError
from distill.config.flags import add_device
from distill.eval.results.tracking import Tracking, add_tracking, take_tracking


@dataclasses.dataclass(frozen=True)
class SceneOptions:
    """The scene to measure, and how; the help of the flags explains each."""

    run: Path
    prompt: str | None
    scores: str | None
    weights: list[str]
    distractors: Path | None
    views: int | None
    protocol: str | None
    found_psnr: float
    batch_size: int
    device: str
    out: Path | None
    tracking: Tracking | None


def parse(arguments: list[str]) -> SceneOptions:
    """Read the arguments."""
    parser = ArgumentParser(
        "python -m eval scene",
        "Measure a scene by renders from cameras that training did not use: how well they fit the prompt, "
        "how much the particles differ and, where the true scenes are known, which of them were found.",
    )
    parser.add_argument(
        "--run", type=Path, required=True, help="run folder, checkpoint or export whose student is a scene"
    )
    _add_scores(parser)
    _add_renders(parser)
    add_device(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file for the results (default: the run's scene.json)"
    )
    add_tracking(parser)
    options = parser.parse_args(arguments)
    if options.scores is None:
        for name in ("prompt", "weights", "distractors"):
            if getattr(options, name):
                raise UserError(f"--{name}: goes with --scores, such as --scores clipscore")
    at_least(options, views=1, batch_size=1, found_psnr=0)
    options.tracking = take_tracking(options)
    return SceneOptions(**vars(options))


def _add_scores(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--scores",
        metavar="NAMES",
        help="scores of renders and prompt, such as pickscore or clipscore:PATH, separated by commas "
        "(default: none)",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="weights of a score, or NAME.SETTING=VALUE; may be repeated",
    )
    parser.add_argument("--prompt", help="description of the scene (default: the run's, without view words)")
    parser.add_argument(
        "--distractors",
        type=Path,
        metavar="FILE",
        help="text file with one other prompt on each line, for R-precision: the share of renders that the "
        "score finds nearest to the true prompt; every line costs one more score of each render",
    )


def _add_renders(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--views",
        type=int,
        help="number of views, evenly spaced around the scene, for a run with the cameras `orbit` (default: "
        "8); a `ring` is turned by half the space between two cameras",
    )
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="protocol whose features compare the particles (default: fd-pixel for images of at most 1024 "
        "values, else fd-effnet)",
    )
    parser.add_argument(
        "--found-psnr",
        type=float,
        default=20.0,
        metavar="DB",
        help="PSNR in decibels above which a known scene counts as found (default: 20)",
    )
    parser.add_argument("--batch-size", type=int, default=4, help="views rendered at once (default: 4)")
