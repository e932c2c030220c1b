"""`python -m eval dpg`."""

from __future__ import annotations

import argparse

from distill.config.flags import DTYPES
from distill.eval.composition.arguments import build_parser, read_request

VQA = "Salesforce/blip-vqa-capfilt-large"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the arguments. `request` holds those that the benchmarks of composition share."""
    parser = build_parser(
        "dpg",
        "Ask a network whether images show what long prompts say, one proposition at a time "
        "(DPG-Bench, Hu et al. 2024).",
        "DPG-Bench's dpg_bench.csv",
        "4, as published",
    )
    parser.add_argument(
        "--vqa",
        default=VQA,
        metavar="PATH",
        help="network that answers, by folder or by name on the hub: BLIP for questions, or a chat model "
        f"(LLaVA, Qwen2-VL, Qwen2.5-VL, Qwen3-VL); numbers of two are not comparable (default: {VQA})",
    )
    parser.add_argument(
        "--vqa-dtype",
        choices=DTYPES,
        default="float32",
        help="precision of the network that answers; bfloat16 halves its memory and may change answers "
        "(default: float32)",
    )
    options = parser.parse_args(arguments)
    options.request = read_request(options)
    return options


def run(options: argparse.Namespace) -> None:
    """Run the benchmark."""
    import torch

    from distill.eval.composition.command import choose_prompts, evaluate
    from distill.eval.composition.dpg.benchmark import PER_PROMPT, build
    from distill.eval.composition.dpg.questions import read_questions

    prompts, items = read_questions(options.prompts)
    prompts = choose_prompts(prompts, options.request, PER_PROMPT)
    evaluate(options.request, build(prompts, items, options.vqa, getattr(torch, options.vqa_dtype)))
