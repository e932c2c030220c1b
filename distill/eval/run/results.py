"""The content of `eval.json`."""

from __future__ import annotations

from typing import Literal

from typing_extensions import NotRequired, TypedDict

Role = Literal["student", "teacher", "images"]
ROLES: tuple[Role, ...] = ("student", "teacher", "images")
"""The sets of images that can be measured, by their keys in the results."""


class Comparison(TypedDict):
    """Numbers of some images against real ones; the distance has the name of its protocol."""

    fd_pixel: NotRequired[float]
    fd_effnet: NotRequired[float]
    precision: float
    recall: float


class RoleResults(Comparison):
    """Numbers of some images against the training images and, if there are any, the held-out images."""

    diversity: NotRequired[float]
    label_agreement: NotRequired[float]
    memorised: NotRequired[float]
    memorised_deviation: NotRequired[float]
    held_out: NotRequired[Comparison]


class ReferenceResults(TypedDict):
    """The number of real images, and the held-out images measured as if they had been generated.

    `diversity` is that of the training images with the same label. `memorised` is the share to expect of a
    generator that memorises nothing. `classifier_accuracy` is the
    accuracy of the classifier behind `label_agreement` on held-out images.
    """

    train_images: int
    diversity: NotRequired[float]
    held_out_images: NotRequired[int]
    fd_pixel: NotRequired[float]
    fd_effnet: NotRequired[float]
    precision: NotRequired[float]
    recall: NotRequired[float]
    label_agreement: NotRequired[float]
    classifier_accuracy: NotRequired[float]
    memorised: NotRequired[float]


class SamplingTimes(TypedDict):
    """Milliseconds and network evaluations per image; `speedup` is the teacher's time over the student's."""

    student_ms_per_image: NotRequired[float]
    student_evaluations: NotRequired[int]
    teacher_ms_per_image: NotRequired[float]
    teacher_evaluations: NotRequired[int]
    speedup: NotRequired[float]
    batch_size: int


class EvalResults(TypedDict):
    """The content of `eval.json` for images; `seed` is None if the images were not sampled here."""

    protocol: str
    features: str
    n: int
    seed: int | None
    student: NotRequired[RoleResults]
    teacher: NotRequired[RoleResults]
    images: NotRequired[RoleResults]
    reference: ReferenceResults
    hashes: dict[str, str]
    skipped: dict[str, str]
    warnings: list[str]
    sampling: NotRequired[SamplingTimes]
    grids: NotRequired[str]
    """Labels of the images in the grids, in words."""


class LaboratoryResults(TypedDict):
    """The content of `eval.json` for a run of vectors, whose teacher is known exactly."""

    protocol: Literal["laboratory"]
    n: int
    seed: int
    student: dict[str, float | list[float]]
