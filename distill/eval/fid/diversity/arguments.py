"""The arguments of `python -m eval diversity`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from distill.config.command_line import ArgumentParser, at_least, finite
from distill.config.errors import UserError
from distill.eval.command_line import NETWORKS, find_subject, list_flags
from distill.eval.fid.arguments import (
    FidOptions,
    add_measurement,
    add_sampling,
    add_subjects,
    refuse_foreign_flags,
)
from distill.eval.results.tracking import take_tracking

PER_PROMPT = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiversityOptions(FidOptions):
    """Settings of `diversity`: those of `fid` without its bootstrap, and these."""

    per_prompt: int | None
    perceptual: list[str]
    lpips_heads: Path | None


def parse_diversity(arguments: list[str]) -> DiversityOptions:
    """Read the arguments of `diversity`."""
    options = _build_parser().parse_args(arguments)
    subject = find_subject(options)
    refuse_foreign_flags(options, subject)
    if options.n is not None:
        raise UserError(
            "--n: goes with fid; expected --per-prompt, and as many prompts as are to be measured"
        )
    if options.per_prompt is not None and subject[2:] not in NETWORKS:
        raise UserError(
            f"--per-prompt: goes with {list_flags(NETWORKS)} only; all images of a file are taken"
        )
    _check_perceptual(options.perceptual, options.lpips_heads)
    at_least(options, per_prompt=2, batch_size=1, seed=0, steps=1)
    finite(options, "guidance")
    options.tracking = take_tracking(options)
    return DiversityOptions(**vars(options), held_out=None, bootstrap=0, per_label=False)


def _build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        "python -m eval diversity",
        "Measure how much images of one prompt, or of one label, differ: mean cosine distance of pairs and "
        "Vendi score under a protocol's features, perceptual distances, and with a reference the recall of "
        "each label.",
    )
    add_subjects(parser)
    add_sampling(parser)
    parser.add_argument(
        "--per-prompt",
        type=int,
        metavar="K",
        help=f"images of each prompt or label that a network makes (default: {PER_PROMPT}); a Vendi score is "
        "at most K, so compare scores of equal K",
    )
    parser.add_argument(
        "--perceptual",
        action="append",
        default=[],
        metavar="NAME[=PATH]",
        help="perceptual distance: lpips-alex=PATH or lpips-vgg=PATH with torchvision's weights of the "
        "network, or effnet-layers, which needs no download and is not LPIPS; may be repeated",
    )
    parser.add_argument(
        "--lpips-heads",
        type=Path,
        metavar="FILE",
        help="trained weights of LPIPS (default: those that come with torchmetrics)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the results (default: none)")
    add_measurement(parser)
    return parser


def _check_perceptual(given: list[str], heads: Path | None) -> None:
    """Refuse a perceptual distance that is given twice, and weights of LPIPS without LPIPS."""
    names = [text.partition("=")[0] for text in given]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--perceptual {name}: is given twice; expected it once")
    if heads is not None and not any(name.startswith("lpips") for name in names):
        raise UserError("--lpips-heads: goes with --perceptual lpips-alex or lpips-vgg")
