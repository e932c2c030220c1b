"""All statistics of some images against a reference, with the reason for each that cannot be had."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.fid.reference import Reference
from distill.eval.fid.results import Numbers, Summary
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.images.extraction import Features
from distill.eval.metrics.frechet_limit import CONFIDENCE, bootstrap_deviation, frechet_limit
from distill.eval.metrics.frechet_ratio import FrechetRatioResult, frechet_ratio
from distill.eval.metrics.gaussian_mmd import gaussian_mmd
from distill.eval.metrics.inception_score import inception_score
from distill.eval.metrics.kernel_distance import kernel_distance
from distill.eval.metrics.precision_recall import neighbourhoods
from distill.eval.metrics.subsets import some

MAX_NEIGHBOURS = 10_000
"""Maximum number of images of each side among which neighbours are searched: the time is quadratic."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """Additional measurements: replicates of the bootstrap, 0 for none, each label's distance, and CMMD.

    `progress` shows progress bars.
    """

    bootstrap: int = 20
    per_label: bool = False
    cmmd: bool = False
    progress: bool = False


@dataclasses.dataclass(frozen=True)
class Measured:
    """Statistics, the reasons for those that are missing, and a warning if they are doubtful."""

    numbers: Numbers
    skipped: dict[str, str]
    warning: str | None


def measure(made: Features, reference: Reference, effort: Effort, classes: tuple[str, ...] = ()) -> Measured:
    """Compute all statistics that can be had. `classes` name the labels of the generated images, if known."""
    real = reference.statistics
    distance = frechet_distance(made.statistics, real)
    numbers: dict[str, object] = {"fd": distance}
    skipped: dict[str, str] = {}

    def add(name: str, statistic: Callable[[], Mapping[str, object]]) -> None:
        try:
            numbers.update(statistic())
        except UserError as error:
            skipped[name] = str(error)

    add("fdr", lambda: _ratio(made, reference))
    add("fd_limit", lambda: _limit(made.features, real, effort.progress))
    if effort.bootstrap:
        deviation = bootstrap_deviation(made.features, real, effort.bootstrap, effort.progress)
        reach = CONFIDENCE * deviation
        numbers |= {"fd_deviation": deviation, "fd_interval": [distance - reach, distance + reach]}
    if made.logits is not None:
        logits = made.logits
        add("is", lambda: inception_score(logits))
    if reference.images is None:
        lacking = ("kid", "neighbours", *(["cmmd"] if effort.cmmd else []))
        skipped |= dict.fromkeys(lacking, "the reference is statistics, without features")
    else:
        images = reference.images
        if effort.cmmd:
            add("cmmd", lambda: gaussian_mmd(made.features, images.features))
        add("kid", lambda: kernel_distance(made.features, images.features))
        add("neighbours", lambda: _neighbourhoods(made.features, images.features))
    if effort.per_label:
        add("per_label", lambda: {"per_label": _per_label(made, reference, classes)})
    return Measured(cast(Numbers, numbers), skipped, made.statistics.warning)


def _ratio(made: Features, reference: Reference) -> FrechetRatioResult:
    if reference.held_out is None:
        raise UserError("no held-out real images are known; give --held-out")
    return frechet_ratio(made.features, reference.held_out.images.features, reference.statistics)


def _limit(features: Tensor, real: Statistics, progress: bool) -> dict[str, float]:
    limit = frechet_limit(features, real, progress)
    return {"fd_limit": limit.value, "fd_limit_deviation": limit.deviation}


def _neighbourhoods(made: Tensor, real: Tensor) -> dict[str, float]:
    """Compute precision, recall, density and coverage, among at most `MAX_NEIGHBOURS` images of each side."""
    return neighbourhoods(some(real, MAX_NEIGHBOURS), some(made, MAX_NEIGHBOURS))


def _per_label(made: Features, reference: Reference, classes: tuple[str, ...]) -> dict[str, float]:
    """Compute the distance of the images of each label, by its name, to the real images of that label."""
    real = reference.images
    if made.labels is None or real is None or real.labels is None:
        raise UserError("labels are needed on both sides")
    distances = {}
    for label in made.labels.unique().tolist():
        name = classes[label] if classes else str(label)
        generated_rows = made.features[made.labels == label]
        real_rows = real.features[real.labels == label]
        if min(len(generated_rows), len(real_rows)) < 2:
            found = f"{len(generated_rows)} generated and {len(real_rows)} real images"
            raise UserError(f"label {name}: {found}; expected at least 2 of each")
        sides = Statistics.of(generated_rows), Statistics.of(real_rows)
        distances[name] = frechet_distance(*sides)
    return distances


def summarise(repetitions: list[Numbers]) -> Summary:
    """Compute mean, standard deviation and minimum of every number over repetitions."""
    summary: Summary = {}
    for name, first in repetitions[0].items():
        if isinstance(first, float):
            values = [cast(Mapping[str, float], repetition)[name] for repetition in repetitions]
            row = torch.tensor(values, dtype=torch.float64)
            std = float(row.std()) if len(row) > 1 else 0.0
            summary[name] = {"mean": float(row.mean()), "std": std, "min": float(row.min())}
    return summary
