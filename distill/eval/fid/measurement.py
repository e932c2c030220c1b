"""Measurements under protocols, from streams of images to results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from distill.config.errors import UserError
from distill.eval.features import Extractor
from distill.eval.fid.arguments import MeasurementOptions
from distill.eval.fid.choices import load_extractors
from distill.eval.fid.evaluation import evaluate
from distill.eval.fid.measure import Effort
from distill.eval.fid.prompts import prompt_departures
from distill.eval.fid.reference import HeldOut, Reference
from distill.eval.fid.results import FidResults
from distill.eval.fid.subjects import open_held_out, open_references, trained_note
from distill.eval.images.extraction import Features
from distill.eval.images.feature_store import Request, extract_together
from distill.eval.images.processes import Processes
from distill.eval.images.streams import ImageStream
from distill.eval.protocols import Protocol, read_protocols


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A protocol with its feature network and its reference, ready to measure.

    `store` is the folder of the feature store. `trained` is a note on a run that was trained on the features,
    and `prompts` the file of prompts.
    """

    protocol: Protocol
    extractor: Extractor
    reference: Reference
    processes: Processes
    store: Path
    effort: Effort
    trained: str | None = None
    prompts: Path | None = None

    @classmethod
    def open(cls, options: MeasurementOptions, protocol: str, bootstrap: int, per_label: bool) -> Measurement:
        """Load one feature network, and read or extract its reference."""
        return cls.open_all(options, read_protocols(protocol), bootstrap, per_label)[0]

    @classmethod
    def open_all(
        cls,
        options: MeasurementOptions,
        protocols: Sequence[Protocol],
        bootstrap: int,
        per_label: bool,
        held_out: str | None = None,
        find_held_out: bool = False,
    ) -> list[Measurement]:
        """Load the feature networks, and read or extract the references, in one pass over real images.

        `held_out` names the held-out real images; with `find_held_out`, the reference's source may have them.
        """
        processes = Processes.of_environment()
        sources = open_references(options, protocols)
        extractors = load_extractors(protocols, options.weights, processes.device(options.device))
        networks = list(zip(protocols, extractors, strict=True))
        further = open_held_out(options, protocols, held_out) if held_out or find_held_out else None
        references = _extract_references(sources, further, networks, options.features, processes)
        return [
            cls(
                protocol,
                extractor,
                reference,
                processes,
                options.features,
                Effort(bootstrap, per_label or protocol.per_label, protocol.cmmd, progress=True),
                trained_note(options.run, protocol.features),
                options.prompts,
            )
            for (protocol, extractor), reference in zip(networks, references, strict=True)
        ]

    def of(self, streams: list[ImageStream]) -> FidResults | None:
        """Measure one or more repetitions.

        Processes other than the main one only help to extract features, and get None.
        """
        results = measure_together([self], [streams])
        return None if results is None else results[0]

    def evaluate(self, streams: list[ImageStream], made: list[Features]) -> FidResults:
        """Compute the results of one or more repetitions from their features."""
        results = evaluate(self.protocol, self.extractor, streams, made, self.reference, self.effort)
        results["departures"] += prompt_departures(self.protocol, self.prompts, streams[0])
        if self.trained is not None:
            results["trained"] = self.trained
        return results

    def check_labels(self, stream: ImageStream) -> None:
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


def _extract_references(
    sources: Sequence[ImageStream | Reference],
    further: ImageStream | None,
    networks: Sequence[tuple[Protocol, Extractor]],
    store: Path,
    processes: Processes,
) -> list[Reference]:
    """Compute the reference of each protocol from its source, and add the held-out images `further`."""
    requests = [
        Request(source, *network)
        for source, network in zip(sources, networks, strict=True)
        if not isinstance(source, Reference)
    ]
    if further is not None:
        requests += [Request(further, *network) for network in networks]
    given = iter(extract_together(requests, store, processes, progress=True))
    references = [
        source if isinstance(source, Reference) else Reference.of(next(given), source.origin, source.classes)
        for source in sources
    ]
    if further is None:
        return references
    return [
        dataclasses.replace(reference, held_out=HeldOut(images, further.origin))
        for reference, images in zip(references, given, strict=True)
    ]


def measure_together(
    measurements: Sequence[Measurement], streams: Sequence[list[ImageStream]]
) -> list[FidResults] | None:
    """Measure the streams of each measurement, one for each repetition, in one pass over the images.

    Processes other than the main one only help to extract features, and get None.
    """
    for measurement, repetitions in zip(measurements, streams, strict=True):
        measurement.check_labels(repetitions[0])
    requests = [
        Request(stream, measurement.protocol, measurement.extractor)
        for measurement, repetitions in zip(measurements, streams, strict=True)
        for stream in repetitions
    ]
    first = measurements[0]
    found = iter(extract_together(requests, first.store, first.processes, first.effort.progress))
    made: list[list[Features]] = [[next(found) for _ in repetitions] for repetitions in streams]
    if not first.processes.is_main:
        return None
    return [
        one.evaluate(repetitions, features)
        for one, repetitions, features in zip(measurements, streams, made, strict=True)
    ]
