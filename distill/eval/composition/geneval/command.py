"""`python -m eval geneval`."""

from __future__ import annotations

import argparse

from distill.eval.composition.arguments import build_parser, read_request
from distill.eval.composition.geneval.requirements import read_requirements

DETECTOR = "facebook/mask2former-swin-small-coco-instance"
CLIP = "openai/clip-vit-large-patch14"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the arguments. `request` holds those that the benchmarks of composition share."""
    parser = build_parser(
        "geneval",
        "Count the images that hold the objects, numbers, colours and positions that their prompts ask for "
        "(GenEval, Ghosh et al. 2023).",
        "GenEval's evaluation_metadata.jsonl",
        "4, as published",
    )
    parser.add_argument(
        "--detector",
        default=DETECTOR,
        metavar="PATH",
        help=f"Mask2Former of COCO's instances, by folder or by name on the hub (default: {DETECTOR}, of the "
        "size of the published one; numbers of another are not comparable)",
    )
    parser.add_argument(
        "--clip",
        default=CLIP,
        metavar="PATH",
        help=f"CLIP that names colours, by folder or by name on the hub (default: {CLIP}, the published one)",
    )
    options = parser.parse_args(arguments)
    options.request = read_request(options)
    return options


def run(options: argparse.Namespace) -> None:
    """Run the benchmark."""
    from distill.eval.composition.command import choose_prompts, evaluate
    from distill.eval.composition.geneval.benchmark import PER_PROMPT, build

    prompts, requirements = read_requirements(options.prompts)
    prompts = choose_prompts(prompts, options.request, PER_PROMPT)
    evaluate(options.request, build(prompts, requirements, options.detector, options.clip))
