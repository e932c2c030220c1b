"""Every metric of some sets of images against the real training images and, where there are any, held-out ones, by the features of a protocol.

The protocol is fd-pixel where pixels are few, and else fd-effnet. Fréchet distances are biased by the number of images, so only equal numbers may
be compared, and only with equal hashes of the real images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distill.config.errors import UserError
from eval.features import features_of, load_extractor
from eval.frechet import Statistics, frechet_distance
from eval.images.feature_store import prepare
from eval.metrics.label_agreement import LabelClassifier
from eval.metrics.memorisation import memorisation
from eval.metrics.precision_recall import NEIGHBOURS, Manifold, precision_recall
from eval.protocols import Protocol, default_protocol, distance_key
from eval.run.images import Images

BLOCK = 512
"""Images whose prepared form is held at once."""

Extract = Callable[[Images], Tensor]
"""Images -> their features (n, d)."""


def extraction(protocol: Protocol) -> Extract:
    """The features of a protocol. Raises UserError where they cannot be had."""
    extractor = load_extractor(protocol.features)

    def extract(images: Images) -> Tensor:
        blocks = images.pixels.split(BLOCK)
        return torch.cat(
            [
                features_of(extractor, torch.stack([prepare(image, protocol) for image in block]))["features"]
                for block in blocks
            ]
        )

    return extract


@dataclasses.dataclass(frozen=True)
class Measured:
    """A set of images as the metrics see it, with what each of them needs computed once."""

    features: Tensor
    labels: Tensor | None
    statistics: Statistics
    manifold: Manifold
    distance: str
    """Key of the distance: the protocol's name."""

    @classmethod
    def of(cls, images: Images, name: str, protocol: Protocol, extract: Extract) -> Measured:
        """Raises UserError, with the set's name, where it is too small to be measured."""
        if len(images) <= NEIGHBOURS:
            raise UserError(
                f"{name}: {len(images)} images; expected at least {NEIGHBOURS + 1}, for neighbours and a covariance"
            )
        features = extract(images)
        return cls(
            features,
            images.labels,
            Statistics.of(features),
            Manifold.of(features),
            distance_key(protocol.name),
        )

    def compare(self, real: Measured) -> dict[str, float]:
        """Fréchet distance, precision and recall of these images against real ones."""
        return {
            self.distance: frechet_distance(self.statistics, real.statistics),
            **precision_recall(real.manifold, self.manifold),
        }


@dataclasses.dataclass(frozen=True)
class Reference:
    """The real images, and a classifier of them where they have labels."""

    train: Measured
    held_out: Measured | None
    classifier: LabelClassifier | None

    @classmethod
    def of(
        cls, train: Images, held_out: Images | None, measure: Callable[[Images, str], Measured]
    ) -> Reference:
        measured = measure(train, "real training images")
        classifier = (
            None if measured.labels is None else LabelClassifier.fit(measured.features, measured.labels)
        )
        return cls(
            measured, None if held_out is None else measure(held_out, "real held-out images"), classifier
        )

    def measure(self, made: Measured) -> dict[str, Any]:
        """All metrics of a set of images; those that cannot be had are left out."""
        results: dict[str, Any] = made.compare(self.train)
        if self.classifier is not None and made.labels is not None:
            results["label_agreement"] = self.classifier.agreement(made.features, made.labels)
        if self.held_out is not None:
            copied = memorisation(made.features, self.train.features, self.held_out.features)
            results |= {
                "memorised": copied.share,
                "memorised_deviation": copied.deviation,
                "held_out": made.compare(self.held_out),
            }
        return results

    def describe(self) -> dict[str, Any]:
        """The held-out images measured as if they had been generated, for orientation, and how many real images there are.

        `memorised` is the share to expect of a generator that memorises nothing; `classifier_accuracy` is the accuracy on held-out images of
        the classifier behind `label_agreement`.
        """
        results: dict[str, Any] = {"train_images": self.train.statistics.count}
        if self.held_out is None:
            return results
        results["held_out_images"] = self.held_out.statistics.count
        results |= self.held_out.compare(self.train)
        if self.classifier is not None and self.held_out.labels is not None:
            accuracy = self.classifier.agreement(self.held_out.features, self.held_out.labels)
            results |= {"label_agreement": accuracy, "classifier_accuracy": accuracy}
        return {
            **results,
            "memorised": memorisation(
                self.held_out.features, self.train.features, self.held_out.features
            ).expected,
        }


def evaluate(
    made: Mapping[str, Images], train: Images, held_out: Images | None, seed: int | None = None
) -> dict[str, Any]:
    """Measure sets of images, equally many in each, by their role: `student`, `teacher` or `images`. Returns what `eval.json` holds.

    `seed` is the first image's, None where the images were not drawn here. Raises UserError where a set has fewer than 4 images.
    """
    counts = {len(images) for images in made.values()}
    if len(counts) != 1:
        raise UserError(
            f"sets of {sorted(counts)} images; expected equally many, the distances are biased by the number"
        )
    protocol = default_protocol(train.shape)
    measure = partial(Measured.of, protocol=protocol, extract=extraction(protocol))
    reference = Reference.of(train, held_out, measure)
    measured = {role: measure(images, role) for role, images in made.items()}
    results: dict[str, Any] = {
        "protocol": protocol.name,
        "features": protocol.features,
        "n": counts.pop(),
        "seed": seed,
    }
    results |= {role: reference.measure(images) for role, images in measured.items()}
    results["reference"] = reference.describe()
    real = {"real_train": train} if held_out is None else {"real_train": train, "real_held_out": held_out}
    results["hashes"] = {name: images.sha256 for name, images in {**real, **made}.items()}
    results["skipped"] = skipped(measured, reference)
    doubts = {"real training images": reference.train, "real held-out images": reference.held_out, **measured}
    results["warnings"] = [
        f"{name}: {images.statistics.warning}"
        for name, images in doubts.items()
        if images and images.statistics.warning
    ]
    return results


def skipped(made: Mapping[str, Measured], reference: Reference) -> dict[str, str]:
    """The metrics that cannot be had, and why."""
    reasons = {}
    unlabelled = [role for role, images in made.items() if images.labels is None]
    if reference.classifier is None:
        reasons["label_agreement"] = "the data have no labels"
    elif unlabelled:
        reasons["label_agreement"] = f"no labels came with: {', '.join(unlabelled)}"
    if reference.held_out is None:
        reasons |= dict.fromkeys(("held_out", "memorised"), "the data have no held-out images")
    return reasons


def sampling_times(made: Mapping[str, Images], batch_size: int) -> dict[str, float]:
    """Milliseconds per image of what was sampled here, and how many times faster the student is; empty where nothing was."""
    times: dict[str, float] = {}
    for role, images in made.items():
        if images.seconds is not None:
            times[f"{role}_ms_per_image"] = 1000 * images.seconds / len(images)
            times[f"{role}_evaluations"] = images.evaluations or 0
    if len(times) == 4:
        times["speedup"] = times["teacher_ms_per_image"] / times["student_ms_per_image"]
    return {**times, "batch_size": batch_size} if times else {}
