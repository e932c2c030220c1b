"""`python -m eval preference`: makes the images that are missing, scores them, and prints the results."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from distill.config.errors import UserError, writing_to
from distill.data.image_files import ImageFiles
from distill.eval.images.processes import Processes
from distill.eval.preference.contact_sheet import save_sheets
from distill.eval.preference.found_images import find_images, recorded_prompts
from distill.eval.preference.images import PromptedImages, make_images
from distill.eval.preference.result_types import FORMAT, Results, ScoreResult, SecondSubject
from distill.eval.preference.results import (
    check_pairing,
    describe_images,
    independent,
    measure,
    notes_on_images,
)
from distill.eval.preference.score_names import choose_scores, describe_score, open_scorer
from distill.eval.preference.scores import Scores, score_images
from distill.eval.preference.subject_spec import SubjectSpec
from distill.eval.preference.subjects import open_subject
from distill.eval.preference.table import render
from distill.eval.prompt_sets import PromptSet, read_prompt_set
from distill.eval.prompt_sets.formats import Prompt
from distill.eval.results.file import check_out
from distill.eval.results.tracked import track_preference
from distill.eval.results.tracking import Tracking, log_results, step_of_run
from distill.rewards import RewardSettings
from distill.storage.files import write_json
from distill.storage.provenance import commit, machine
from distill.training.config import CONFIG

FILE = "preference.json"


@dataclasses.dataclass(frozen=True)
class Request:
    """The command line of `python -m eval preference`; the help of its flags explains the fields."""

    subject: SubjectSpec
    against: SubjectSpec | None
    scores: str
    weights: Sequence[str]
    prompts: str | None
    format: str | None
    all_captions: bool
    n: int | None
    draw: int | None
    per_prompt: int | None
    seed: int
    dtype: str
    batch_size: int
    device: str
    store: Path
    out: Path | None
    tracking: Tracking | None = None


def run(options: argparse.Namespace) -> None:
    """Evaluate what the command line asks for, and print the results.

    They are also written if they are of a run, or with `--out`.
    """
    request = Request(
        subject=options.asked,
        against=options.against,
        scores=options.scores,
        weights=options.weights,
        prompts=options.prompts,
        format=options.format,
        all_captions=options.captions == "all",
        n=options.n,
        draw=options.draw,
        per_prompt=options.per_prompt,
        seed=options.seed,
        dtype=options.dtype,
        batch_size=options.batch_size,
        device=options.device,
        store=options.store,
        out=options.out,
        tracking=options.tracking,
    )
    evaluate(request)


def evaluate(request: Request) -> Results | None:
    """Make or find the images, score them, print the results and write them.

    Returns the results in the main process, and None in the others, which only share the work.
    """
    out = choose_out(request)
    chosen = choose_scores(request.scores, request.weights)
    prompts, per_prompt = choose_prompts(request)
    processes = Processes.of_environment()
    device = processes.device(request.device)
    sides = [gather(request.subject, request, prompts, per_prompt, processes, device)]
    notes = notes_on(prompts)
    if request.against is not None:
        sides.append(gather(request.against, request, prompts, per_prompt, processes, device))
        notes += check_pairing(*sides)
    entries: dict[str, ScoreResult] = {}
    scored: list[Scores] = []
    for name, settings in chosen.items():
        scored, entries[name] = score_sides(name, settings, sides, prompts, processes, device)
    for images, scores in zip(sides, scored, strict=True):
        notes += notes_on_images(images, scores)
    if not processes.is_main:
        return None
    results = assemble(sides, scored, entries, prompts, per_prompt, notes)
    print(render(results))
    if out is not None:
        write(out, results, sides)
        print(f"\n{out} and its contact sheets are written")
    subject = Path(request.subject.path)
    step = step_of_run(subject if request.subject.kind == "run" else None)
    log_results(request.tracking, track_preference(results, subject.name, step, out))
    return results


def choose_out(request: Request) -> Path | None:
    """Return the file for the results: `--out`, otherwise a file in the run's folder if there is a run."""
    if request.out is not None:
        check_out(request.out)
        return request.out
    run = Path(request.subject.path)
    return run / FILE if request.subject.kind == "run" and (run / CONFIG).is_file() else None


def choose_prompts(request: Request) -> tuple[PromptSet, int]:
    """Return the prompts that are measured and the number of images of each.

    The prompts are those of `--prompts`, or those that the images' own index names, or our own list.
    """
    recorded: list[str] = []
    if request.subject.kind == "images" and request.prompts is None:
        recorded = recorded_prompts(ImageFiles(Path(request.subject.path)))
    if recorded:
        prompts, per_prompt = _prompts_of_images(request, recorded)
    else:
        prompts = read_prompt_set(request.prompts, request.format, request.all_captions)
        per_prompt = request.per_prompt or 1
    if request.n is not None:
        prompts = prompts.first(request.n, request.draw)
    return prompts, per_prompt


def _prompts_of_images(request: Request, recorded: Sequence[str]) -> tuple[PromptSet, int]:
    """Return the prompts that an index names, and how many images of each it lists."""
    path = request.subject.path
    counts = Counter(recorded)
    prompts = PromptSet.whole(Path(path).name, path, [Prompt(text) for text in counts])
    least = min(counts.values())
    most = max(counts.values())
    if request.per_prompt is None and least < most:
        raise UserError(f"{path}: holds from {least} to {most} images of a prompt; give --per-prompt")
    return prompts, request.per_prompt or least


def gather(
    spec: SubjectSpec,
    request: Request,
    prompts: PromptSet,
    per_prompt: int,
    processes: Processes,
    device: torch.device,
) -> PromptedImages:
    """Return the images of one subject; make those that do not exist."""
    if spec.kind == "images":
        return find_images(spec, prompts, per_prompt, request.store)
    seeds = range(request.seed, request.seed + len(prompts) * per_prompt)
    source = open_subject(spec, prompts, seeds, request.batch_size, request.dtype, device)
    return make_images(source, prompts, seeds, request.store, processes, progress=True)


def score_sides(
    name: str,
    settings: RewardSettings,
    sides: Sequence[PromptedImages],
    prompts: PromptSet,
    processes: Processes,
    device: torch.device,
) -> tuple[list[Scores], ScoreResult]:
    """Score the images of each subject, and return what a result says of this score.

    The network is opened here only, so that its memory is free before the next one is opened.
    """
    scorer = open_scorer(name, settings, device)
    scored = [score_images(images, scorer, processes, progress=True) for images in sides]
    measured = measure([scores.values.tolist() for scores in scored], prompts)
    return scored, {**describe_score(name, settings), **scorer.identity, **measured}


def notes_on(prompts: PromptSet) -> list[str]:
    """Return the notes that a reader needs on the prompts."""
    notes = []
    if prompts.repeated:
        notes.append(f"{prompts.repeated} prompts stand in the list more than once, and count as often")
    if prompts.rule:
        notes.append(f"prompts: {prompts.rule}")
    return notes


def assemble(
    sides: Sequence[PromptedImages],
    scored: Sequence[Scores],
    entries: dict[str, ScoreResult],
    prompts: PromptSet,
    per_prompt: int,
    notes: list[str],
) -> Results:
    """Build the content of the JSON file."""
    described = [describe_images(images, scores) for images, scores in zip(sides, scored, strict=True)]
    second: SecondSubject = {"against": described[1]} if len(described) > 1 else {}
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
        "subject": described[0],
        **second,
        "scores": entries,
        "notes": notes,
        "commit": commit(),
        "machine": machine(),
    }


def write(out: Path, results: Results, sides: Sequence[PromptedImages]) -> None:
    """Write the contact sheets, and the JSON file that names them."""
    with writing_to(f"{out}:"):
        save_sheets(out, results, sides)
        write_json(out, results)
