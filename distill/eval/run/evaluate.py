"""The metrics of `eval.json`: sets of images against the training images and held-out images.

Fréchet distances are biased by the number of images: only those of equally many images, with equal hashes
of the real images, may be compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.features import Extractor
from distill.eval.frechet import frechet_distance
from distill.eval.images.extraction import Features, compute_features
from distill.eval.images.feature_store import extract
from distill.eval.images.streams import ImageStream, NetworkImages
from distill.eval.metrics.diversity import diversity
from distill.eval.metrics.label_agreement import LabelClassifier
from distill.eval.metrics.memorisation import memorisation
from distill.eval.metrics.precision_recall import NEIGHBOURS, precision_recall
from distill.eval.protocols import Protocol, distance_key
from distill.eval.run.results import (
    Comparison,
    EvalResults,
    ReferenceResults,
    Role,
    RoleResults,
    SamplingTimes,
)

GRID_IMAGES = 100
"""Images of a set that a grid shows at most."""


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Features of a set of images, the hash of their bytes as (n, c, h, w), and the first of the images.

    `conditions` are the numbers of the images' prompts or labels, None if they have neither.
    """

    features: Features
    sha256: str
    first: UInt8[Tensor, "n c h w"]
    conditions: Int64[Tensor, " images"] | None = None


class Recorder:
    """An observer that hashes the bytes of all images and keeps the first `count` images."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.first: list[Tensor] = []
        self.hash = hashlib.sha256()

    def __call__(self, image: UInt8[Tensor, "c h w"]) -> None:
        self.hash.update(image.contiguous().numpy().tobytes())
        if len(self.first) < self.count:
            self.first.append(image)


def measure_images(
    stream: ImageStream,
    name: str,
    protocol: Protocol,
    extractor: Extractor,
    keep: int = GRID_IMAGES,
    progress: bool = False,
    store: Path | None = None,
) -> ImageSet:
    """Compute the features of a stream and keep its first `keep` images; `name` names it in messages.

    With `store`, the features are taken from that folder, or computed and kept there.
    """
    if len(stream) <= NEIGHBOURS:
        expected = f"expected at least {NEIGHBOURS + 1}, for neighbours and a covariance"
        raise UserError(f"{name}: {len(stream)} images; {expected}")
    recorder = Recorder(keep)
    if store is None:
        features = compute_features(stream, protocol, extractor, recorder, progress)
    else:
        features = extract(stream, protocol, extractor, store, progress=progress)
        for image in stream.read(range(len(stream))):
            assert not isinstance(image, UserError)  # all of them have features
            recorder(image)
    conditions = stream.conditions if isinstance(stream, NetworkImages) else features.labels
    return ImageSet(features, recorder.hash.hexdigest(), torch.stack(recorder.first), conditions)


@dataclasses.dataclass(frozen=True)
class RealImages:
    """The real images under a protocol, and a classifier of them if they have labels."""

    protocol: Protocol
    train: ImageSet
    held_out: ImageSet | None
    classifier: LabelClassifier | None

    @classmethod
    def of(cls, protocol: Protocol, train: ImageSet, held_out: ImageSet | None) -> RealImages:
        """Learn the labels of the training images, if they have any."""
        labels = train.features.labels
        classifier = None if labels is None else LabelClassifier.fit(train.features.features, labels)
        return cls(protocol, train, held_out, classifier)

    def measure(self, images: ImageSet) -> RoleResults:
        """Compute all metrics of a set of images; those that cannot be had are left out."""
        made = images.features
        results = cast(RoleResults, self._compare(made, self.train.features))
        if images.conditions is not None:
            share = diversity(made.features, images.conditions, self.train.features.features)
            if share is not None:
                results["diversity"] = share
        if self.classifier is not None and made.labels is not None:
            results["label_agreement"] = self.classifier.agreement(made.features, made.labels)
        if self.held_out is not None:
            real = self.held_out.features
            copied = memorisation(made.features, self.train.features.features, real.features)
            results["memorised"] = copied.share
            results["memorised_deviation"] = copied.deviation
            results["held_out"] = self._compare(made, real)
        return results

    def describe(self) -> ReferenceResults:
        """Count the real images, and measure the held-out images as if they had been generated."""
        train = self.train.features
        results: ReferenceResults = {"train_images": len(train)}
        if train.labels is not None:
            share = diversity(train.features, train.labels, train.features)
            if share is not None:
                results["diversity"] = share
        if self.held_out is None:
            return results
        held_out = self.held_out.features
        results["held_out_images"] = len(held_out)
        results.update(cast(ReferenceResults, self._compare(held_out, train)))
        if self.classifier is not None and held_out.labels is not None:
            accuracy = self.classifier.agreement(held_out.features, held_out.labels)
            results["label_agreement"] = accuracy
            results["classifier_accuracy"] = accuracy
        results["memorised"] = len(train) / (len(train) + len(held_out))  # expected without memorisation
        return results

    def _compare(self, made: Features, real: Features) -> Comparison:
        """Compute the Fréchet distance, precision and recall of some images against real ones."""
        distance = frechet_distance(made.statistics, real.statistics)
        shares = precision_recall(real.manifold, made.manifold)
        return cast(Comparison, {distance_key(self.protocol.name): distance, **shares})


def evaluate(
    made: Mapping[Role, ImageSet],
    train: ImageSet,
    held_out: ImageSet | None,
    protocol: Protocol,
    seed: int | None = None,
) -> EvalResults:
    """Measure sets of images, equally many in each, by their role.

    `seed` is the first image's, None if the images were not sampled here.
    """
    counts = {len(images.features) for images in made.values()}
    if len(counts) != 1:
        expected = "expected equally many, the distances are biased by the number"
        raise UserError(f"sets of {sorted(counts)} images; {expected}")
    real = RealImages.of(protocol, train, held_out)
    real_sets = {"train": train} if held_out is None else {"train": train, "held_out": held_out}
    hashes = {f"real_{name}": images.sha256 for name, images in real_sets.items()}
    results: dict[str, object] = {
        "protocol": protocol.name,
        "features": protocol.features,
        "n": counts.pop(),
        "seed": seed,
    }
    for role, images in made.items():
        results[role] = real.measure(images)
        hashes[role] = images.sha256
    results |= {
        "reference": real.describe(),
        "hashes": hashes,
        "skipped": skipped(made, real),
        "warnings": warnings(made, real),
    }
    return cast(EvalResults, results)


def skipped(made: Mapping[Role, ImageSet], real: RealImages) -> dict[str, str]:
    """Give the reason for every metric that cannot be had."""
    reasons = {}
    unlabelled = [role for role, images in made.items() if images.features.labels is None]
    if real.classifier is None:
        reasons["label_agreement"] = "the data have no labels"
    elif unlabelled:
        reasons["label_agreement"] = f"no labels came with: {', '.join(unlabelled)}"
    if real.held_out is None:
        reasons |= dict.fromkeys(("held_out", "memorised"), "the data have no held-out images")
    return reasons


def warnings(made: Mapping[Role, ImageSet], real: RealImages) -> list[str]:
    """Say which sets have too few images for a sound distance."""
    sets: dict[str, ImageSet] = {"real training images": real.train}
    if real.held_out is not None:
        sets["real held-out images"] = real.held_out
    sets.update((role, images) for role, images in made.items())
    doubts = {name: images.features.statistics.warning for name, images in sets.items()}
    return [f"{name}: {doubt}" for name, doubt in doubts.items() if doubt]


def sampling_times(networks: Mapping[Role, NetworkImages]) -> SamplingTimes | None:
    """Compute the time of an image of each network, and the student's speedup; None without networks.

    All make images of one shape, so that their batches have one size.
    """
    times: dict[str, float] = {}
    for role, stream in networks.items():
        times[f"{role}_ms_per_image"] = 1000 * stream.seconds / len(stream)
        times[f"{role}_evaluations"] = stream.evaluations
    if not times:
        return None
    if len(networks) == 2:
        times["speedup"] = times["teacher_ms_per_image"] / times["student_ms_per_image"]
    (batch_size,) = {stream.batch_size for stream in networks.values()}
    return cast(SamplingTimes, {**times, "batch_size": batch_size})
