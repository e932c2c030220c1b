"""Types of the results of `python -m eval scene`."""

from __future__ import annotations

from typing_extensions import NotRequired, TypedDict

from distill.eval.preference.result_types import ScoreFacts, ScoreIdentity

FORMAT = "distill-scene/1"


class PromptResults(TypedDict):
    """The prompt of the scene, and the prompts that R-precision compares it with."""

    prompt: str
    distractors: int
    distractors_sha256: str


class PrecisionResults(TypedDict):
    """Share of renders, and of particles, whose true prompt is the nearest."""

    renders: float
    particles: float


class SceneScoreResults(ScoreFacts, ScoreIdentity):
    """One score of the renders with the prompt, as means over all and over each particle."""

    mean: float
    by_particle: list[float]
    r_precision: NotRequired[PrecisionResults]


class DiversityResults(TypedDict):
    """Mean differences of two particles from the same camera: distance of features, and PSNR."""

    protocol: str
    features: str
    weights_sha256: str
    distance: float
    psnr: float


class KnownSceneResults(TypedDict):
    """Particles against the true scenes, by the PSNR of held-out views.

    `psnr` has a row for each particle and a column for each scene; `nearest` and `nearest_psnr` are of each
    particle. `mass` is the share of particles nearest to each scene.
    """

    names: list[str]
    psnr: list[list[float]]
    nearest: list[str]
    nearest_psnr: list[float]
    mass: dict[str, float]
    found_psnr: float
    found: list[str]


class SceneResults(TypedDict):
    """The content of `scene.json`. `skipped` gives the reason for every part that cannot be had."""

    format: str
    of: str
    particles: int
    views: int
    size: list[int]
    cameras: list[list[float]]
    """Azimuth, elevation, distance and field of view of each view, with angles in radians."""
    weights_sha256: str
    images_sha256: str
    prompts: NotRequired[PromptResults]
    scores: NotRequired[dict[str, SceneScoreResults]]
    diversity: NotRequired[DiversityResults]
    known_scenes: NotRequired[KnownSceneResults]
    skipped: dict[str, str]
    commit: str | None
    machine: str
