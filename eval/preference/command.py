"""`python -m eval preference`: make the images that are not there, score those that are not scored, say what came out."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from distill.config.errors import UserError
from distill.data.image_files import ImageFiles
from distill.storage.files import write_json
from distill.storage.provenance import commit, machine
from distill.training.config import CONFIG
from eval.images.processes import Processes
from eval.preference.contact_sheet import save_sheets
from eval.preference.images import PromptedImages, find_images, make_images, recorded_prompts
from eval.preference.results import (
    FORMAT,
    check_pairing,
    describe_images,
    independent,
    measure,
    notes_on_images,
)
from eval.preference.score_names import choose_scores, describe_score, open_scorer
from eval.preference.scores import Scores, score_images
from eval.preference.subject_spec import SubjectSpec
from eval.preference.subjects import open_subject
from eval.preference.table import render
from eval.prompt_sets import PromptSet, read_prompt_set
from eval.prompt_sets.formats import Prompt
from eval.results_file import check_out

FILE = "preference.json"


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make, score, print and, for a run or with `--out`, write. Returns the results; in another process than the main one, which only helps, nothing.

    Raises UserError where something is missing or does not fit.
    """
    out = choose_out(options)
    chosen = choose_scores(options.scores, options.weights)
    prompts, per_prompt = choose_prompts(options)
    processes = Processes.of_environment()
    device, progress = processes.device(options.device), sys.stderr.isatty()
    sides = [
        gather(asked, options, prompts, per_prompt, processes, device)
        for asked in (options.asked, options.against)
        if asked is not None
    ]
    notes = [*notes_on(prompts), *(check_pairing(*sides) if len(sides) > 1 else [])]
    entries, scored = {}, []
    for name, settings in chosen.items():
        scorer = open_scorer(name, settings, device)
        scored = [score_images(images, scorer, processes, progress) for images in sides]
        entries[name] = {
            **describe_score(name, settings),
            **scorer.identity,
            **measure([scores.values.tolist() for scores in scored], prompts),
        }
        del scorer  # before the next is loaded
    notes += [
        note for images, scores in zip(sides, scored, strict=True) for note in notes_on_images(images, scores)
    ]
    if not processes.is_main:
        return {}
    results = assemble(sides, scored, entries, prompts, per_prompt, notes)
    print(render(results))
    if out is not None:
        write(out, results, sides)
        print(f"\n{out} and its contact sheets are written")
    return results


def choose_out(options: argparse.Namespace) -> Path | None:
    """Where the results go: `--out`, else into the run's folder, if it is one. Raises UserError where there is no such folder."""
    if options.out is None:
        run = Path(options.asked.path)
        return run / FILE if options.asked.kind == "run" and (run / CONFIG).is_file() else None
    check_out(options.out)
    return options.out


def choose_prompts(options: argparse.Namespace) -> tuple[PromptSet, int]:
    """The prompts that are measured and how many images of each: of `--prompts`, of the images themselves, or our own."""
    asked, per_prompt = options.asked, options.per_prompt or 1
    recorded = (
        recorded_prompts(ImageFiles(Path(asked.path)))
        if asked.kind == "images" and options.prompts is None
        else []
    )
    if recorded:
        prompts, counts = (
            PromptSet.whole(
                Path(asked.path).name, asked.path, [Prompt(text) for text in dict.fromkeys(recorded)]
            ),
            Counter(recorded),
        )
        if options.per_prompt is None and len(set(counts.values())) > 1:
            least, most = min(counts.values()), max(counts.values())
            raise UserError(
                f"{asked.path}: holds from {least} to {most} images of a prompt; give --per-prompt"
            )
        per_prompt = options.per_prompt or min(counts.values())
    else:
        prompts = read_prompt_set(options.prompts, options.format, options.captions == "all")
    if options.n is not None:
        prompts = prompts.first(options.n, options.draw)
    return prompts, per_prompt


def gather(
    asked: SubjectSpec,
    options: argparse.Namespace,
    prompts: PromptSet,
    per_prompt: int,
    processes: Processes,
    device: torch.device,
) -> PromptedImages:
    """The images of one subject, made where they are not there."""
    if asked.kind == "images":
        return find_images(asked, prompts, per_prompt, options.store)
    seeds = range(options.seed, options.seed + len(prompts) * per_prompt)
    subject = open_subject(asked, prompts, seeds, options.batch_size, options.dtype, device)
    return make_images(subject, prompts, seeds, options.store, processes, sys.stderr.isatty())


def notes_on(prompts: PromptSet) -> list[str]:
    """What a reader must know of the prompts."""
    repeated = f"{prompts.repeated} prompts stand in the list more than once, and count as often"
    return [
        *([repeated] if prompts.repeated else []),
        *([f"prompts: {prompts.rule}"] if prompts.rule else []),
    ]


def assemble(
    sides: list[PromptedImages],
    scored: list[Scores],
    entries: dict[str, Any],
    prompts: PromptSet,
    per_prompt: int,
    notes: list[str],
) -> dict[str, Any]:
    """What the JSON file holds."""
    described = [describe_images(images, scores) for images, scores in zip(sides, scored, strict=True)]
    return {
        "format": FORMAT,
        "prompts": {
            **prompts.describe(),
            "texts": prompts.texts,
            "categories": [prompt.category for prompt in prompts.prompts],
        },
        "per_prompt": per_prompt,
        "independent": independent(prompts, len(sides[0])),
        "seeds": sides[0].seeds,
        **dict(zip(("subject", "against"), described, strict=False)),
        "scores": entries,
        "notes": notes,
        "commit": commit(),
        "machine": machine(),
    }


def write(out: Path, results: dict[str, Any], sides: list[PromptedImages]) -> None:
    """The contact sheets and the JSON file that names them. Raises UserError where they cannot be written after all."""
    try:
        save_sheets(out, results, sides)
        write_json(out, results)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error
