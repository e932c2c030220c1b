"""The content of `fid.json` and `sweep.json`, and reading them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import Field, PositiveInt
from typing_extensions import NotRequired, TypedDict

from distill.eval.results.file import Part, read_results_of

FORMAT = "distill-fid/1"
SWEEP_FORMAT = "distill-sweep/2"


class Spread(TypedDict):
    """Mean, standard deviation (0 for one repetition) and minimum of a number over repetitions."""

    mean: float
    std: float
    min: float


Summary = dict[str, Spread]
"""The spread of each statistic by its name."""

Numbers = TypedDict(
    "Numbers",
    {
        "fd": float,
        "fd_limit": NotRequired[float],
        "fd_limit_deviation": NotRequired[float],
        "fd_deviation": NotRequired[float],
        "fd_interval": NotRequired[list[float]],
        "is": NotRequired[float],
        "is_deviation": NotRequired[float],
        "fdr": NotRequired[float],
        "fdr_real": NotRequired[float],
        "fdr_count": NotRequired[int],
        "cmmd": NotRequired[float],
        "kid": NotRequired[float],
        "kid_deviation": NotRequired[float],
        "kid_interval": NotRequired[list[float]],
        "precision": NotRequired[float],
        "recall": NotRequired[float],
        "density": NotRequired[float],
        "coverage": NotRequired[float],
        "per_label": NotRequired[dict[str, float]],
    },
)
"""Statistics of the images of one repetition; those that cannot be had are left out."""


class Repetition(Numbers):
    """Statistics of one repetition, and the hash of its images."""

    images_sha256: str


class ReferenceOrigin(TypedDict):
    """Origin of a reference; `known` is given for statistics, and says who has published them."""

    kind: str
    of: str
    count: int | None
    known: NotRequired[bool]


class DescribedReference(ReferenceOrigin):
    """Origin of a reference, and the hash of its images or of its file of statistics."""

    sha256: str


class DescribedHeldOut(TypedDict):
    """Origin, number and hash of the held-out real images that are the unit of FDr.

    `subset_seed` draws as many as there are on the other side.
    """

    of: str
    count: int
    sha256: str
    subset_seed: int


class FidResults(TypedDict):
    """The content of `fid.json`.

    `source` is what the stream of images says of itself; its keys depend on the kind of stream. `trained` is
    a note on a run that was trained on these features, which do not judge it.
    """

    format: str
    protocol: str
    metric: str
    source: dict[str, Any]
    n: int
    first_seeds: list[int] | None
    departures: list[str]
    summary: Summary
    repetitions: list[Repetition]
    reference: DescribedReference
    held_out: NotRequired[DescribedHeldOut]
    trained: NotRequired[str]
    preprocessing_sha256: str
    weights_sha256: str
    skipped: dict[str, str]
    warnings: list[str]
    commit: str | None
    machine: str


class SweepIdentity(TypedDict):
    """Settings that all numbers of a sweep share."""

    format: str
    protocol: str
    metric: str
    preprocessing_sha256: str
    weights_sha256: str
    reference_sha256: str
    n: int
    prompts_sha256: str | None


class BestCheckpoint(TypedDict):
    """The checkpoint of the smallest distance, measured anew from other seeds."""

    step: int
    results: FidResults


class SweepResults(SweepIdentity):
    """The content of `sweep.json`: the summary of each checkpoint by its step, and the best one."""

    checkpoints: dict[str, Summary]
    best: NotRequired[BestCheckpoint]


class _Spread(Part):
    mean: float
    std: float
    min: float


class _Reference(Part):
    sha256: str


class _Source(Part):
    prompts_sha256: str | None = None
    lossy: int | None = None


class _Repetition(Part):
    images_sha256: str | None = None
    fd_deviation: float | None = None
    fd_limit_deviation: float | None = None
    kid_deviation: float | None = None
    fdr_count: int | None = None
    is_deviation: float | None = None


class Results(Part):
    """The parts of `FidResults` that a comparison needs."""

    protocol: str
    preprocessing_sha256: str
    weights_sha256: str
    n: PositiveInt
    reference: _Reference
    held_out: _Reference | None = None
    trained: str | None = None
    source: _Source
    departures: list[str]
    first_seeds: list[int] | None = None
    summary: dict[str, _Spread]
    repetitions: list[_Repetition] = Field(min_length=1)


class _Best(Part):
    step: int
    results: dict[str, Any]


class _Sweep(Part):
    checkpoints: dict[str, dict[str, _Spread]]
    best: _Best | None = None


def read_results(path: Path) -> FidResults:
    """Read what `fid` wrote, and check the parts that a comparison needs."""
    return cast(FidResults, read_results_of("fid", path, FORMAT, Results)[0])


def read_sweep(path: Path) -> SweepResults:
    """Read what `sweep` wrote, and check the parts that a continued sweep needs."""
    return cast(SweepResults, read_results_of("sweep", path, SWEEP_FORMAT, _Sweep)[0])
