"""`python -m eval text`."""

from __future__ import annotations

import argparse

from distill.config.flags import DTYPES
from distill.eval.composition.arguments import build_parser, read_request
from distill.eval.prompt_sets.formats import FORMATS

OCR = "Qwen/Qwen2.5-VL-7B-Instruct"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the arguments. `request` holds those that the benchmarks of composition share."""
    parser = build_parser(
        "text",
        "Read the text in images and compare it with the text that their prompts ask for.",
        "prompts that quote text, LongText-Bench's text_prompts.jsonl, or one of CVTG-2K's files",
        "4 for LongText-Bench, otherwise 1",
    )
    parser.add_argument(
        "--format", choices=list(FORMATS), help="format of --prompts (default: recognised by its content)"
    )
    parser.add_argument(
        "--ocr",
        default=OCR,
        metavar="PATH",
        help="network that reads, by folder or by name on the hub: GOT-OCR 2 (stepfun-ai/GOT-OCR-2.0-hf, "
        "small), or a chat model (LLaVA, Qwen2-VL, Qwen2.5-VL, Qwen3-VL); numbers of two are not comparable "
        f"(default: {OCR}, that of LongText-Bench)",
    )
    parser.add_argument(
        "--ocr-dtype",
        choices=DTYPES,
        default="float32",
        help="precision of the network that reads; LongText-Bench uses bfloat16, which halves its memory "
        "(default: float32)",
    )
    options = parser.parse_args(arguments)
    options.request = read_request(options)
    return options


def run(options: argparse.Namespace) -> None:
    """Run the benchmark."""
    import torch

    from distill.eval.composition.command import choose_prompts, evaluate
    from distill.eval.composition.rendered_text.benchmark import PER_PROMPT, build
    from distill.eval.composition.rendered_text.targets import read_targets

    prompts, targets = read_targets(options.prompts, options.format)
    prompts = choose_prompts(prompts, options.request, PER_PROMPT.get(prompts.name))
    evaluate(options.request, build(prompts, targets, options.ocr, getattr(torch, options.ocr_dtype)))
