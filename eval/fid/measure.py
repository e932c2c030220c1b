"""All statistics of stored features against a reference, with the reasons for those that cannot be had."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from distill.config.errors import UserError
from eval.features import checked
from eval.fid.reference import Reference
from eval.frechet import Statistics, frechet_distance
from eval.images.feature_store import Features
from eval.metrics.frechet_limit import CONFIDENCE, bootstrap_deviation, frechet_limit
from eval.metrics.inception_score import inception_score
from eval.metrics.kernel_distance import kernel_distance
from eval.metrics.precision_recall import (
    COVERAGE_NEIGHBOURS,
    NEIGHBOURS,
    Manifold,
    density_coverage,
    precision_recall,
)
from eval.metrics.subsets import some

MAX_NEIGHBOURS = 10_000
"""Images of each side among which neighbours are looked for at most: the time grows with their square."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """What is measured besides: replicates of the bootstrap (0 for none), the distance of every label, and whether progress is shown."""

    bootstrap: int = 20
    per_label: bool = False
    progress: bool = False


@dataclasses.dataclass(frozen=True)
class Measured:
    """Statistics by name, why others are not there, and what makes these doubtful, if anything does."""

    results: dict[str, Any]
    skipped: dict[str, str]
    warning: str | None


def measure(made: Features, reference: Reference, effort: Effort) -> Measured:
    """All statistics that can be had. Raises UserError where the features have another dimension than the reference."""
    real, features, statistics = reference.statistics, made.features, Statistics.of(made.features)
    results: dict[str, Any] = {"fd": frechet_distance(statistics, real)}
    skipped: dict[str, str] = {}

    def add(name: str, statistic: Any) -> None:
        try:
            results.update(statistic())
        except UserError as error:
            skipped[name] = str(error)

    add("fd_limit", lambda: _limit(features, real, effort.progress))
    if effort.bootstrap:
        deviation = bootstrap_deviation(features, real, effort.bootstrap, effort.progress)
        results |= {
            "fd_deviation": deviation,
            "fd_interval": [results["fd"] - CONFIDENCE * deviation, results["fd"] + CONFIDENCE * deviation],
        }
    if made.logits is not None:
        logits = made.logits
        add("is", lambda: inception_score(logits))
    if reference.features is None:
        skipped |= dict.fromkeys(("kid", "neighbours"), "the reference is statistics, without features")
    else:
        real_features = reference.features
        add("kid", lambda: kernel_distance(features, real_features))
        add("neighbours", lambda: _neighbourhoods(features, real_features))
    if effort.per_label:
        add("per_label", lambda: {"per_label": _per_label(made, reference)})
    return Measured(results, skipped, statistics.warning)


def _limit(features: Tensor, real: Statistics, progress: bool) -> dict[str, float]:
    limit = frechet_limit(features, real, progress)
    return {"fd_limit": limit.value, "fd_limit_deviation": limit.deviation}


def _neighbourhoods(made: Tensor, real: Tensor) -> dict[str, float]:
    """Precision, recall, density and coverage, among at most `MAX_NEIGHBOURS` images of each side."""
    made, real = checked(some(made, MAX_NEIGHBOURS)), checked(some(real, MAX_NEIGHBOURS))
    near = precision_recall(Manifold.of(real, NEIGHBOURS), Manifold.of(made, NEIGHBOURS))
    return {**near, **density_coverage(Manifold.of(real, COVERAGE_NEIGHBOURS), made)}


def _per_label(made: Features, reference: Reference) -> dict[str, float]:
    """The distance of the images of each label to the real ones of that label. Raises UserError where a side has no labels, or one image of one."""
    if made.labels is None or reference.images is None or reference.images.labels is None:
        raise UserError("labels are needed on both sides")
    real = reference.images
    distances = {}
    for label in made.labels.unique().tolist():
        sides = [side.features[side.labels == label] for side in (made, real)]  # type: ignore[operator]
        if min(len(side) for side in sides) < 2:
            raise UserError(
                f"label {label}: {len(sides[0])} generated and {len(sides[1])} real images; expected at least 2 of each"
            )
        distances[str(label)] = frechet_distance(*(Statistics.of(side) for side in sides))
    return distances


def summarise(repetitions: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation over repetitions (0 where there is one) and least of every number."""
    names = [name for name, value in repetitions[0].items() if isinstance(value, float)]
    values = {
        name: torch.tensor([repetition[name] for repetition in repetitions], dtype=torch.float64)
        for name in names
    }
    return {
        name: {
            "mean": float(row.mean()),
            "std": float(row.std()) if len(row) > 1 else 0.0,
            "min": float(row.min()),
        }
        for name, row in values.items()
    }
