"""Runs a benchmark of composition: makes the images that are missing, examines them, prints the results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch

from distill.config.errors import writing_to
from distill.eval.composition.arguments import Request
from distill.eval.composition.benchmark import Benchmark, Measure
from distill.eval.composition.examination import Findings, examine_images
from distill.eval.composition.layouts import find_existing
from distill.eval.composition.ratios import estimate, interval
from distill.eval.composition.result_types import FORMAT, CompositionResults, ImageResult, MeasureResult
from distill.eval.composition.sheet import save_sheet
from distill.eval.composition.table import render
from distill.eval.images.processes import Processes
from distill.eval.preference.images import PromptedImages, make_images
from distill.eval.preference.results import describe_images, notes_on_images
from distill.eval.preference.subjects import open_subject
from distill.eval.prompt_sets import PromptSet
from distill.eval.results.file import check_out
from distill.eval.results.tracked import track_composition
from distill.eval.results.tracking import log_results, step_of_run
from distill.storage.files import write_json
from distill.storage.provenance import commit, machine
from distill.training.config import CONFIG


def evaluate(request: Request, benchmark: Benchmark) -> CompositionResults | None:
    """Make or find the images, examine them, print the results and write them.

    They are written if they are of a run, or with `--out`. Returns them in the main process, and None in the
    others, which only share the work.
    """
    out = _choose_out(request, benchmark)
    benchmark.check_networks()
    per_prompt = request.per_prompt or benchmark.per_prompt
    processes = Processes.of_environment()
    device = processes.device(request.device)
    images = _gather(request, benchmark, per_prompt, processes, device)
    examiner = benchmark.open_examiner(device)
    findings = examine_images(images, examiner, benchmark.asked, processes, progress=True)
    if not processes.is_main:
        return None
    results = _assemble(benchmark, images, findings, per_prompt, examiner.identity)
    print(render(results))
    if out is not None:
        with writing_to(f"{out}:"):
            save_sheet(out, results, images)
            write_json(out, results)
        print(f"\n{out} and its contact sheet are written")
    subject = Path(request.subject.path)
    step = step_of_run(subject if request.subject.kind == "run" else None)
    log_results(request.tracking, track_composition(results, subject.name, step, out))
    return results


def choose_prompts(prompts: PromptSet, request: Request, per_prompt: int | None) -> PromptSet:
    """Return the prompts that are measured.

    Another number of images of each than `per_prompt`, the published one, is a departure; None if there is
    none.
    """
    if request.n is not None:
        prompts = prompts.first(request.n, request.draw)
    if per_prompt is not None and request.per_prompt not in (None, per_prompt):
        departure = f"{request.per_prompt} images of a prompt, not {per_prompt}"
        prompts = dataclasses.replace(prompts, departures=(*prompts.departures, departure))
    return prompts


def _choose_out(request: Request, benchmark: Benchmark) -> Path | None:
    """Return the file for the results: `--out`, otherwise a file in the run's folder if there is a run."""
    if request.out is not None:
        check_out(request.out)
        return request.out
    run = Path(request.subject.path)
    is_run = request.subject.kind == "run" and (run / CONFIG).is_file()
    return run / f"{benchmark.name}.json" if is_run else None


def _gather(
    request: Request, benchmark: Benchmark, per_prompt: int, processes: Processes, device: torch.device
) -> PromptedImages:
    """Return the images; make those that do not exist."""
    if request.subject.kind == "images":
        return find_existing(request.subject, benchmark, per_prompt, request.store)
    prompts = benchmark.prompts
    seeds = range(request.seed, request.seed + len(prompts) * per_prompt)
    source = open_subject(request.subject, prompts, seeds, request.batch_size, request.dtype, device)
    return make_images(source, prompts, seeds, request.store, processes, progress=True)


def _assemble(
    benchmark: Benchmark,
    images: PromptedImages,
    findings: Findings,
    per_prompt: int,
    examiner: dict[str, object],
) -> CompositionResults:
    """Build the content of the JSON file."""
    prompts = benchmark.prompts
    by_prompt = [findings.rows[number :: len(prompts)] for number in range(len(prompts))]
    notes = notes_on_images(images, findings)
    if prompts.repeated:
        notes.append(f"{prompts.repeated} prompts stand in the list more than once, and count as often")
    return {
        "format": FORMAT,
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "prompts": {
            **prompts.describe(),
            "texts": prompts.texts,
            "categories": [prompt.category for prompt in prompts.prompts],
        },
        "per_prompt": per_prompt,
        "asked_sha256": hashlib.sha256(json.dumps(benchmark.asked, sort_keys=True).encode()).hexdigest(),
        "seeds": images.seeds,
        "subject": describe_images(images, findings),
        "examiner": examiner,
        "measures": {name: _estimated(one) for name, one in benchmark.measure(by_prompt).items()},
        "images": [_judged(benchmark, images, findings, row) for row in range(len(images))],
        "conventions": benchmark.conventions,
        "notes": notes,
        "commit": commit(),
        "machine": machine(),
    }


def _estimated(measure: Measure) -> MeasureResult:
    estimated = estimate(measure.numerators, measure.denominators, measure.strata)
    return {
        "title": measure.title,
        "value": estimated.value,
        "standard_error": estimated.standard_error,
        "interval": interval(estimated, measure.is_rate),
        "count": estimated.prompts,
        "scale": measure.scale,
        "numerators": measure.numerators,
        "denominators": measure.denominators,
        "strata": measure.strata,
    }


def _judged(benchmark: Benchmark, images: PromptedImages, findings: Findings, row: int) -> ImageResult:
    verdict = benchmark.judge(findings.rows[row], benchmark.asked[row % len(benchmark.asked)])
    return {"file": images.name(row), "score": verdict.score, "reason": verdict.reason}
