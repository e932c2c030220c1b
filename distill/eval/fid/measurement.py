"""Measurements under a protocol, from streams of images to the content of the JSON file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from distill.config.errors import UserError
from distill.eval.features import Extractor, load_extractor
from distill.eval.fid.arguments import MeasurementOptions
from distill.eval.fid.measure import Effort, measure, summarise
from distill.eval.fid.reference import Reference
from distill.eval.fid.results import FORMAT, FidResults
from distill.eval.fid.subjects import open_reference
from distill.eval.images.extraction import Features
from distill.eval.images.feature_store import extract
from distill.eval.images.processes import Processes
from distill.eval.images.streams import ImageStream
from distill.eval.protocols import Protocol, read_protocol
from distill.storage.provenance import commit, machine


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A protocol with its feature network and its reference, ready to measure.

    `store` is the folder of the feature store.
    """

    protocol: Protocol
    extractor: Extractor
    reference: Reference
    processes: Processes
    store: Path
    effort: Effort

    @classmethod
    def open(cls, options: MeasurementOptions, protocol: str, bootstrap: int, per_label: bool) -> Measurement:
        """Load the feature network, and read or extract the reference."""
        chosen, processes = read_protocol(protocol), Processes.of_environment()
        effort = Effort(bootstrap, per_label, progress=True)
        real = open_reference(options, chosen)
        extractor = load_extractor(chosen.features, options.weights).to(processes.device(options.device))
        if not isinstance(real, Reference):
            features = extract(real, chosen, extractor, options.features, processes, effort.progress)
            real = Reference.of(features, real.origin, real.classes)
        return cls(chosen, extractor, real, processes, options.features, effort)

    def of(self, streams: list[ImageStream]) -> FidResults | None:
        """Measure one or more repetitions.

        Processes other than the main one only help to extract features, and get None.
        """
        self._check_labels(streams[0])
        made = [self._features(stream) for stream in streams]
        if not self.processes.is_main:
            return None
        return evaluate(self.protocol, self.extractor, streams, made, self.reference, self.effort)

    def _check_labels(self, stream: ImageStream) -> None:
        """Refuse labels that are places of folders which the reference does not have.

        The labels of a network and of an index stand for themselves.
        """
        real = self.reference.images
        if not self.effort.per_label or real is None or real.labels is None:
            return
        if stream.classes and stream.classes != self.reference.classes:
            expected = ", ".join(self.reference.classes) or "numbers"
            found = f"{stream.origin} has {', '.join(stream.classes):.200}"
            raise UserError(f"--per-label: {found}; expected {expected:.200} as the reference")

    def _features(self, stream: ImageStream) -> Features:
        return extract(
            stream, self.protocol, self.extractor, self.store, self.processes, self.effort.progress
        )


def evaluate(
    protocol: Protocol,
    extractor: Extractor,
    streams: list[ImageStream],
    made: list[Features],
    reference: Reference,
    effort: Effort,
) -> FidResults:
    """Measure one or more repetitions, given as streams and their features.

    The results also describe all that the numbers depend on.
    """
    first = streams[0]
    check_dimensions(first, made[0], reference)
    measured = [measure(features, reference, effort) for features in made]
    seeds = [stream.first_seed for stream in streams if stream.first_seed is not None]
    first_seeds = seeds or None
    repetitions = zip(made, measured, strict=True)
    return {
        "format": FORMAT,
        "protocol": protocol.name,
        "metric": protocol.metric,
        "source": {"of": first.origin, **first.describe()},
        "n": len(first),
        "first_seeds": first_seeds,
        "departures": protocol.departures(len(first), first_seeds) + unknown_statistics(reference),
        "summary": summarise([one.numbers for one in measured]),
        "repetitions": [
            {"images_sha256": features.images_sha256, **one.numbers} for features, one in repetitions
        ],
        "reference": {**reference.origin, "sha256": reference.sha256},
        "preprocessing_sha256": protocol.sha256,
        "weights_sha256": extractor.sha256,
        "skipped": measured[0].skipped,
        "warnings": warnings(first, made, measured[0].warning, reference),
        "commit": commit(),
        "machine": machine(),
    }


def warnings(stream: ImageStream, made: list[Features], doubt: str | None, reference: Reference) -> list[str]:
    """Collect what makes the numbers doubtful: too few images, notes on images, and repeated prompts."""
    doubts = {"generated": doubt, "reference": reference.statistics.warning}
    sides = made if reference.images is None else [*made, reference.images]
    notes = dict.fromkeys(note for features in sides for note in features.notes)
    return [
        *(f"{name}: {found}" for name, found in doubts.items() if found),
        *notes,
        *repeated_prompts(stream),
    ]


def check_dimensions(stream: ImageStream, made: Features, reference: Reference) -> None:
    """Refuse features of another dimension than the reference's, such as pixels of another size."""
    found, expected = made.features.shape[1], len(reference.statistics.mean)
    if found != expected:
        real = f"expected {expected} as of the reference, {reference.origin['of']}"
        raise UserError(f"{stream.origin}: features of {found} dimensions; {real}")


def unknown_statistics(reference: Reference) -> list[str]:
    """Name a departure from the protocol if nobody says how the reference's statistics were made."""
    return [] if reference.origin.get("known", True) else ["reference statistics of unknown origin"]


def repeated_prompts(stream: ImageStream) -> list[str]:
    """Warn of more images than prompts, which make another number than as many different prompts."""
    prompts = stream.describe().get("prompts", len(stream))
    if prompts >= len(stream):
        return []
    return [f"generated: {prompts} prompts for {len(stream)} images, taken in turn"]
